"""MFU by hand and by formulas of others; what is not known is not guessed."""

import pytest

from arch.families import bert, gpt, mixtral, t5
from arch.layers import block, stack
from arch.layers.contract import SublayerConfig
from arch.models import decoder
from arch.train.utilization import PEAKS, TERA, step_flops, utilization
from tests.contracts.sublayers import FFNS, MIXERS

SMALL = gpt.PRESETS["gpt2_small"]
ROWS, LENGTH = 8, 1024
H100 = "NVIDIA H100 80GB HBM3"


def of(model_cfg, device_kind=H100, num_devices=1):
    return utilization(model_cfg, ROWS, {"length": LENGTH}, device_kind=device_kind, num_devices=num_devices)


def decoder_of(*sublayers) -> decoder.Config:
    layers = stack.Config(pattern=(block.Config(sublayers=sublayers),))
    return decoder.Config(vocab_size=11, embed_dim=7, layers=layers)


def test_gpt2_small_takes_6nd_and_the_attention_term_of_palm():
    layers, heads, head_dim, d, vocab = 12, 12, 64, 768, 50257
    weights = layers * 12 * d**2 + vocab * d  # of matrices: 4 d^2 of attention, 8 d^2 of the MLP, the tied table once
    palm = ROWS * LENGTH * (6 * weights + 12 * layers * heads * head_dim * LENGTH)
    assert 3 * ROWS * SMALL.flops(LENGTH).executed == palm
    causal = ROWS * LENGTH * (6 * weights + 12 * layers * heads * head_dim * (LENGTH + 1) / 2)
    assert step_flops(SMALL, ROWS, {"length": LENGTH}) == causal


def test_mixtral_takes_6nd_of_its_published_active_parameters():
    cfg = mixtral.PRESETS["mixtral_8x7b"]
    met = step_flops(cfg, 1, {"length": 1}) / 6 + cfg.vocab_size * cfg.embed_dim  # a lookup has no products
    assert met == pytest.approx(12.9e9, rel=0.01)  # Jiang et al., Mixtral of Experts, 2024, sec. 1: 13B


def test_an_encoder_decoder_takes_both_lengths():
    cfg = t5.PRESETS["t5_small"]
    both = step_flops(cfg, 1, {"length": 1, "source_length": 2})
    assert both > step_flops(cfg, 1, {"length": 1, "source_length": 1}) > 0


def test_mfu_is_one_at_the_peak():
    use = of(SMALL, num_devices=4)
    seconds = use.step_flops / (4 * 989.5e12)
    assert use.scalars(seconds) == pytest.approx({"perf/tflops_per_second": 989.5, "perf/mfu": 1.0})


@pytest.mark.parametrize("cfg", [pytest.param(cfg, id=name) for name, cfg in (MIXERS | FFNS).items()])
def test_devices_at_their_peak_have_an_mfu_of_at_most_one(cfg):
    model = decoder_of(cfg)
    assert 0 < of(model).step_flops <= 3 * ROWS * model.flops(LENGTH).executed


def test_twice_the_devices_halve_the_rate_of_each():
    one, two = (of(SMALL, num_devices=n).scalars(1.0) for n in (1, 2))
    assert one == {name: 2 * value for name, value in two.items()}


def test_an_unknown_device_has_a_rate_but_no_mfu_and_says_so():
    use = of(SMALL, "cpu")
    assert use.scalars(1.0) == {"perf/tflops_per_second": use.step_flops / TERA}
    assert "no MFU: the peak of 'cpu' is not known" in use.formula


def test_a_sublayer_that_does_not_say_leaves_no_number():
    class Config(SublayerConfig):
        __module__ = "arch.mixers.average"

    use = of(decoder_of(Config()))
    assert use.scalars(1.0) == {} and use.formula == "no MFU: average does not say its FLOPs"


def test_a_model_that_does_not_say_leaves_no_number():
    assert of(SMALL.norm).formula == "no MFU: norm does not say its FLOPs"


def test_the_formula_says_what_is_counted_and_which_peak_is_taken():
    formula = of(SMALL).formula
    for part in ("3 (forward, backward) x 8 rows of 1024 tokens", "causal attention halved", "chosen experts only"):
        assert part in formula
    assert "9.895e+14, the dense bfloat16 peak of 'NVIDIA H100 80GB HBM3', though the model computes in fl" in formula
    assert "though" not in of(SMALL.replace(dtype="bfloat16")).formula


def test_the_formula_says_how_many_tokens_are_predicted():
    use = utilization(bert.PRESETS["bert_base"], 2, {"length": 7, "predicted": 3}, device_kind=H100, num_devices=1)
    assert "2 rows of 7 tokens, 3 of them predicted, x the products" in use.formula


def test_peaks_are_of_a_device_and_dense():
    assert PEAKS["TPU7x"] < PEAKS["NVIDIA GB200"] and max(PEAKS.values()) == 2500
    assert PEAKS["NVIDIA H200"] == PEAKS["NVIDIA H100 80GB HBM3"] == 989.5
