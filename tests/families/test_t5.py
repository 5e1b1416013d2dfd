"""T5: sizes, paths, config.json both ways, rules, and what tells version 1.1 from the first."""

import pytest

from arch.families import t5
from arch.positions import none
from arch.published import Attributes, differences
from tests.families import fit

COUNTS = {
    "t5_small": 60_506_624,
    "t5_base": 222_903_552,
    "t5_large": 737_668_096,
    "t5_3b": 2_851_598_336,
    "t5_11b": 11_307_321_344,
    "t5_v1_1_small": 76_961_152,
    "t5_v1_1_base": 247_577_856,
    "t5_v1_1_large": 783_150_080,
    "t5_v1_1_xl": 2_849_757_184,
    "t5_v1_1_xxl": 11_135_332_352,
}
SIZES = dict(
    embed_dim=6, num_layers=3, num_heads=2, head_dim=5, hidden_dim=7, decoder_layers=2, vocab_size=11, buckets=6,
    max_distance=13,
)  # fmt: skip
V1_1 = dict(gated=True, activation="gelu_tanh", tie_embeddings=False)
TINY = {
    "first": t5.compose(**SIZES),
    "v1_1": t5.compose(**SIZES, **V1_1),
    "one": t5.compose(**SIZES | {"num_layers": 1}),
}
MIXER = "query key value out"
ATTENTION = [f"attention/{name}" for name in MIXER.split()] + ["attention_norm/scale"]
CROSS = [path.replace("attention", "cross_attention") for path in ATTENTION]
MLP = ["mlp/up", "mlp/down", "mlp_norm/scale"]
BASE_V1_1 = {
    "architectures": ["T5ForConditionalGeneration"],
    "d_ff": 2048,
    "d_kv": 64,
    "d_model": 768,
    "decoder_start_token_id": 0,
    "dropout_rate": 0.1,
    "eos_token_id": 1,
    "feed_forward_proj": "gated-gelu",
    "initializer_factor": 1.0,
    "is_encoder_decoder": True,
    "layer_norm_epsilon": 1e-06,
    "model_type": "t5",
    "num_decoder_layers": 12,
    "num_heads": 12,
    "num_layers": 12,
    "output_past": True,
    "pad_token_id": 0,
    "relative_attention_num_buckets": 32,
    "tie_word_embeddings": False,
    "vocab_size": 32128,
}
"""The config.json of the released t5-v1_1-base."""


@pytest.fixture(params=TINY)
def tiny(request):
    return TINY[request.param]


def test_every_preset_is_counted():
    assert t5.PRESETS.keys() == COUNTS.keys()


@pytest.mark.parametrize("name", COUNTS)
def test_a_preset_has_the_published_number_of_parameters(name):
    assert sum(leaf.size for leaf in fit.shapes(t5.PRESETS[name]).values()) == COUNTS[name]


def test_a_model_s_paths_are_those_of_the_contract():
    expected = ["embedding/table", "encoder/norm/scale", "decoder/norm/scale"]
    expected += [f"{side}/layers/0/attention/relative" for side in ("encoder", "decoder")]
    expected += [f"encoder/layers/{i}/{path}" for i in range(3) for path in ATTENTION + MLP]
    expected += [f"decoder/layers/{i}/{path}" for i in range(2) for path in ATTENTION + CROSS + MLP]
    assert sorted(fit.shapes(TINY["first"])) == sorted(expected)


def test_the_rules_name_each_weight_once_and_are_undone_by_saving(tiny):
    assert fit.misfits(t5, tiny) == []


def test_reading_what_was_written_gives_the_config_back(tiny):
    assert t5.read(Attributes(t5.write(tiny))) == tiny


@pytest.mark.parametrize("name", COUNTS)
def test_a_preset_is_read_back_as_it_was_written(name):
    assert t5.read(Attributes(t5.write(t5.PRESETS[name]))) == t5.PRESETS[name]


def test_a_published_config_json_reads_as_its_preset():
    assert t5.read(Attributes(BASE_V1_1)) == t5.PRESETS["t5_v1_1_base"]


def test_what_transformers_5_writes_of_version_1_1_is_untied_too():
    today = {"tie_word_embeddings": True, "scale_decoder_outputs": False}
    today |= {"is_gated_act": True, "dense_act_fn": "gelu_new"}
    assert t5.read(Attributes(BASE_V1_1 | today)) == t5.PRESETS["t5_v1_1_base"]


def test_logits_are_scaled_where_the_table_is_tied():
    assert (TINY["first"].logit_scale, TINY["v1_1"].logit_scale) == (6**-0.5, 1.0)


def test_only_the_encoder_s_buckets_look_ahead():
    positions = [layers.blocks[0].sublayers[0].position for layers in (TINY["first"].encoder, TINY["first"].decoder)]
    assert [position.bidirectional for position in positions] == [True, False]


def test_a_table_of_its_own_for_the_logits_is_not_overlooked():
    for cfg, left in ((TINY["first"], []), (TINY["v1_1"], ["lm_head.weight is missing in the file"])):
        names = fit.theirs(t5, cfg) - {"lm_head.weight"} | {"encoder.embed_tokens.weight"}
        assert differences(t5.rules(cfg), fit.shapes(cfg), names, fit.optional(t5, cfg)) == left


@pytest.mark.parametrize("changes, message", [
    ({"architectures": ["T5EncoderModel"]}, "'T5EncoderModel' must be T5ForConditionalGeneration"),
    ({"feed_forward_proj": "gated-mish"}, "feed_forward_proj='gated-mish' must be one of gelu, "),
    ({"is_encoder_decoder": False}, "is_encoder_decoder=False must be True"),
    ({"new_trick": 1}, "new_trick=1 is not handled"),
])  # fmt: skip
def test_reading_refuses_what_no_config_expresses(changes, message):
    with pytest.raises(ValueError) as error:
        t5.read(Attributes(BASE_V1_1 | changes))
    assert message in str(error.value)


FIRST = TINY["first"]


@pytest.mark.parametrize("cfg, message", [
    (FIRST.replace(logit_scale=1.0), "logit_scale=1.0 must be 0.40"),
    (FIRST.replace(encoder=FIRST.decoder), "must be attention and mlp or gated_mlp in this family"),
    (FIRST.replace(final_norm=False), "final_norm=False must be True in this family"),
    (t5.compose(**SIZES, gated=True, activation="gelu"), "activation='gelu' must be 'gelu_tanh' in this family"),
    (FIRST.encoder, "must be an encoder_decoder in this family"),
])  # fmt: skip
def test_writing_refuses_what_their_config_cannot_say(cfg, message):
    with pytest.raises(ValueError) as error:
        t5.write(cfg)
    assert message in str(error.value)


def test_writing_refuses_positions_that_are_not_relative():
    layer = FIRST.encoder.blocks[0]
    blind = layer.replace(sublayers=(layer.sublayers[0].replace(position=none.Config()), layer.sublayers[1]))
    with pytest.raises(ValueError, match="must be relative in this family"):
        t5.write(FIRST.replace(encoder=FIRST.encoder.replace(prefix=(), pattern=(blind,))))
