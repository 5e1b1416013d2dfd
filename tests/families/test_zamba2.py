"""Zamba2's presets have the published number of parameters, its config.json is read and written whole, both ways.

tests/parity holds what it computes to transformers.
"""

import pytest

from arch.families import zamba2
from arch.families._folding import folded
from arch.layers import block
from arch.mixers import mamba2
from arch.models import encoder
from arch.positions import rope, rope_linear
from arch.published import Attributes
from tests.families import fit

PUBLISHED = {
    "adapter_rank": 128,
    "add_bias_linear": False,
    "architectures": ["Zamba2ForCausalLM"],
    "attention_dropout": 0.0,
    "attention_head_dim": 128,
    "attention_hidden_size": 4096,
    "bos_token_id": 1,
    "chunk_size": 256,
    "eos_token_id": 2,
    "hidden_act": "gelu",
    "hidden_size": 2048,
    "hybrid_layer_ids": [5, 11, 17, 23, 29, 35],
    "initializer_range": 0.02,
    "intermediate_size": 8192,
    "kv_channels": 64,
    "layers_block_type": (["mamba"] * 5 + ["hybrid"]) * 6 + ["mamba"] * 2,
    "mamba_d_conv": 4,
    "mamba_d_state": 128,
    "mamba_expand": 2,
    "mamba_headdim": 64,
    "mamba_ngroups": 1,
    "max_position_embeddings": 4096,
    "model_type": "zamba2",
    "n_mamba_heads": 64,
    "num_attention_heads": 32,
    "num_hidden_layers": 38,
    "num_key_value_heads": 32,
    "num_logits_to_keep": 1,
    "num_mem_blocks": 1,
    "num_query_groups": 32,
    "pad_token_id": 0,
    "rms_norm_eps": 1e-05,
    "rope_theta": 10000,
    "time_step_floor": 0.0001,
    "time_step_max": 0.1,
    "time_step_min": 0.001,
    "use_cache": True,
    "use_conv_bias": True,
    "use_long_context": False,
    "use_mem_eff_path": False,
    "use_mem_rope": True,
    "use_shared_attention_adapter": True,
    "vocab_size": 32000,
}
"""The config.json of Zamba2-1.2B as transformers has it."""

COUNTS = {  # the report prints 1.2B, 2.7B and 7.4B
    "zamba2_1_2b": 1_215_064_704,
    "zamba2_2_7b": 2_662_214_560,
    "zamba2_7b": 7_356_749_648,
}

SIZES = dict(vocab_size=11, embed_dim=12, num_heads=3, hidden_dim=7, state_heads=6, state_dim=2, ffn_rank=2)
TINY = {
    "few": zamba2.compose(**SIZES, num_layers=3, hybrid_layers=(1,)),
    "all its own": zamba2.compose(
        **SIZES,
        num_layers=9,
        hybrid_layers=(0, 2, 3, 6),
        num_shared=2,
        attention_rank=2,
        position=rope_linear.Config(factor=2.0, theta=9.0),
        activation="silu",
        inner_dim=36,
        num_groups=3,
        conv_width=2,
        least_step=0.2,
        epsilon=0.1,
        tie_embeddings=False,
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", COUNTS)
def test_a_preset_has_the_published_number_of_parameters(name):
    assert sum(leaf.size for leaf in fit.shapes(zamba2.PRESETS[name]).values()) == COUNTS[name]
    printed = {"zamba2_1_2b": 1.2e9, "zamba2_2_7b": 2.7e9, "zamba2_7b": 7.4e9}[name]
    assert COUNTS[name] == pytest.approx(printed, rel=0.015)


def test_every_preset_is_held_here():
    assert zamba2.PRESETS.keys() == COUNTS.keys()


@pytest.mark.parametrize("name, compiled", [("zamba2_1_2b", 8), ("zamba2_2_7b", 30), ("zamba2_7b", 21)])
def test_few_layers_of_a_preset_are_compiled(name, compiled):
    layers = zamba2.PRESETS[name].layers
    assert len(layers.prefix) + len(layers.pattern) + len(layers.suffix) == compiled


@pytest.mark.parametrize("kinds", ["a", "ab", "aaaa", "abab", "cababab", "abcabcd", "aabaab", "abcd", "abbba"])
def test_folding_keeps_the_layers_and_their_order(kinds):
    layers = tuple(block.Config(sublayers=(mamba2.Config(num_heads=ord(kind)),)) for kind in kinds)
    stacked = folded(layers)
    assert stacked.blocks == layers
    assert len(stacked.prefix + stacked.pattern + stacked.suffix) <= len(layers) - (kinds not in ("a", "ab", "abcd"))


def test_shared_transformers_take_turns():
    layers = zamba2.PRESETS["zamba2_7b"].layers.blocks
    groups = [layer.sublayers[0].group for layer in layers if len(layer.sublayers) == 2]
    assert groups == ["shared_0", "shared_1"] * 6 + ["shared_0"]


def test_the_published_config_json_reads_as_its_preset():
    assert zamba2.read(Attributes(PUBLISHED)) == zamba2.PRESETS["zamba2_1_2b"]


@pytest.mark.parametrize("config", [*zamba2.PRESETS.values(), *TINY.values()])
def test_reading_what_was_written_gives_the_config_back(config):
    assert zamba2.read(Attributes(zamba2.write(config))) == config


@pytest.mark.parametrize("name", ["few", pytest.param("all its own", marks=pytest.mark.slow)])
def test_the_rules_name_each_weight_once_and_are_undone_by_saving(name):
    assert fit.misfits(zamba2, TINY[name]) == []


def test_files_may_hold_a_shared_transformer_at_each_of_its_places():
    twice = zamba2.duplicates(TINY["all its own"])
    at = {(int(name.split(".")[2]), int(original.split(".")[2])) for name, original in twice.items()}
    assert at == {(3, 0), (6, 2)}
    assert set(twice.values()) < fit.theirs(zamba2, TINY["all its own"])


READING = [
    ({"new_trick": 1}, "new_trick=1 is not handled"),
    ({"add_bias_linear": True}, "add_bias_linear=True must be False"),
    ({"use_long_context": True}, "use_long_context=True must be False"),
    ({"num_key_value_heads": 8}, "num_key_value_heads=8 must be None or 32"),
    ({"num_hidden_layers": 39}, "must be num_hidden_layers=39 of 'mamba', 'linear_attention' and 'hybrid'"),
    ({"layers_block_type": ["mamba"] * 38}, "hybrid_layers=() must be some numbers that increase from 0 on"),
    ({"n_mamba_heads": 63}, "inner_dim: 4096 channels must be a multiple of 63 heads"),
]


@pytest.mark.parametrize("changes, message", READING)
def test_reading_refuses_what_no_config_expresses(changes, message):
    with pytest.raises(ValueError) as error:
        zamba2.read(Attributes(PUBLISHED | changes))
    assert message in str(error.value)


WRITING = {
    "logit_soft_cap=3.0 must be 0.0 in this family": TINY["few"].replace(logit_soft_cap=3.0),
    "layers must hold shared_transformer in this family": TINY["few"].replace(
        layers=folded(TINY["few"].layers.blocks[:1])
    ),
    "attention_rank=1 must be 0 or ffn_rank=2": zamba2.compose(
        **SIZES, num_layers=3, hybrid_layers=(1,), attention_rank=1
    ),
    "inner_dim=30 of mamba2 must be a multiple of embed_dim=12": zamba2.compose(
        **SIZES, num_layers=3, hybrid_layers=(1,), inner_dim=30
    ),
    "cannot be written in this family": zamba2.compose(
        **SIZES, num_layers=3, hybrid_layers=(1,), position=rope.Config(fraction=0.5)
    ),
    "model='encoder' must be 'decoder'": encoder.Config(vocab_size=11, embed_dim=12, layers=TINY["few"].layers),
}


@pytest.mark.parametrize("message", WRITING)
def test_writing_refuses_what_their_config_cannot_say(message):
    with pytest.raises(ValueError) as error:
        zamba2.write(WRITING[message])
    assert message in str(error.value)
