"""Bamba's preset has the published number of parameters, its config.json is read and written whole, both ways.

tests/parity holds what it computes to transformers.
"""

import pytest

from arch.families import bamba
from arch.models import encoder
from arch.positions import rope, rope_linear
from arch.published import Attributes
from arch.weights import family
from tests.families import fit

PUBLISHED = {
    "architectures": ["BambaForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "attn_layer_indices": [9, 18, 27],
    "bos_token_id": 128000,
    "eos_token_id": 128001,
    "hidden_act": "silu",
    "hidden_size": 4096,
    "initializer_range": 0.02,
    "intermediate_size": 14336,
    "mamba_chunk_size": 256,
    "mamba_conv_bias": True,
    "mamba_d_conv": 4,
    "mamba_d_head": 64,
    "mamba_d_state": 128,
    "mamba_expand": 2,
    "mamba_n_groups": 1,
    "mamba_n_heads": 128,
    "mamba_proj_bias": False,
    "max_position_embeddings": 262144,
    "mlp_bias": False,
    "model_type": "bamba",
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 8,
    "num_logits_to_keep": 1,
    "partial_rotary_factor": 0.5,
    "rms_norm_eps": 1e-05,
    "rope_scaling": None,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "use_cache": True,
    "use_mamba_kernels": True,
    "vocab_size": 128256,
}
"""The config.json of Bamba-9B."""

SIZES = dict(vocab_size=11, embed_dim=12, num_heads=3, hidden_dim=7, state_heads=6, state_head_dim=4, state_dim=2)
TINY = {
    "few": bamba.compose(**SIZES, num_layers=3, attention_layers=(1,), num_kv_heads=1),
    "all its own": bamba.compose(
        **SIZES,
        num_layers=5,
        attention_layers=(0, 2, 3),
        num_kv_heads=3,
        position=rope_linear.Config(factor=2.0, fraction=0.5, theta=9.0),
        num_groups=3,
        conv_width=2,
        epsilon=0.1,
        attention_bias=True,
        mlp_bias=True,
        attention_dropout=0.1,
        tie_embeddings=True,
    ),
}


def test_the_preset_has_the_published_number_of_parameters():
    shapes = fit.shapes(bamba.PRESETS["bamba_9b"])
    assert sum(leaf.size for leaf in shapes.values()) == 9_780_235_392  # its release prints 9.78B
    assert bamba.PRESETS.keys() == {"bamba_9b"}


def test_the_preset_s_period_is_eight_layers_of_mamba_2_and_one_of_attention():
    layers = bamba.PRESETS["bamba_9b"].layers
    assert [layer.labels[0] for layer in layers.pattern] == ["mamba2"] * 8 + ["attention"]
    assert (len(layers.prefix), layers.repeats, len(layers.suffix)) == (1, 3, 4)


@pytest.mark.parametrize(
    "places", [(), (3,), (0,), (0, 4), (2, 6, 10), (9, 18, 27), (1, 2, 3), (0, 2, 3), (0, 16), (15, 31), (5, 29)]
)
def test_layers_attend_where_they_are_told_to(places):
    config = bamba.compose(**SIZES, num_layers=32, attention_layers=places, num_kv_heads=1)
    labels = [layer.labels[0] for layer in config.layers.blocks]
    assert labels == ["attention" if i in places else "mamba2" for i in range(32)]


@pytest.mark.parametrize("places", [(2, 1), (1, 1), (-1,), (3,)])
def test_places_that_are_none_are_refused(places):
    with pytest.raises(ValueError, match="attention_layers=.* must increase from 0 on, below num_layers=3"):
        bamba.compose(**SIZES, num_layers=3, attention_layers=places, num_kv_heads=1)


def test_the_published_config_json_reads_as_its_preset():
    assert family.reading("bamba") is bamba
    assert bamba.read(Attributes(PUBLISHED)) == bamba.PRESETS["bamba_9b"]


@pytest.mark.parametrize("config", [*bamba.PRESETS.values(), *TINY.values()])
def test_reading_what_was_written_gives_the_config_back(config):
    assert bamba.read(Attributes(bamba.write(config))) == config


@pytest.mark.parametrize("name", TINY)
def test_the_rules_name_each_weight_once_and_are_undone_by_saving(name):
    assert fit.misfits(bamba, TINY[name]) == []


def test_this_family_alone_writes_a_model():
    assert family.writing(TINY["few"])[0] is bamba


@pytest.mark.parametrize(
    "changes, ours", [({"mamba_d_head": "auto"}, 64), ({"mamba_n_heads": 64, "mamba_d_head": 128}, 128)]
)
def test_a_head_s_channels_may_be_left_to_the_width(changes, ours):
    config = bamba.read(Attributes(PUBLISHED | changes))
    assert config.layers.pattern[0].sublayers[0].head_dim == ours


READING = [
    ({"new_trick": 1}, "new_trick=1 is not handled"),
    ({"hidden_act": "gelu"}, "hidden_act='gelu' must be 'silu'"),
    ({"mamba_conv_bias": False}, "mamba_conv_bias=False must be True"),
    ({"mamba_proj_bias": True}, "mamba_proj_bias=True must be False"),
    ({"time_step_limit": [0.0, 1.0]}, "time_step_limit=[0.0, 1.0] must be [0.0, inf]"),
    ({"partial_rotary_factor": 1.0}, "must turn 0.5 of the channels in this family"),
    ({"head_dim": 64}, "head_dim=64 must be 128"),
    ({"mamba_n_heads": 64}, "mamba_n_heads=64 times mamba_d_head=64 must be mamba_expand times hidden_size, 8192"),
    ({"attn_layer_indices": [32]}, "attention_layers=(32,) must increase from 0 on, below num_layers=32"),
]


@pytest.mark.parametrize("changes, message", READING)
def test_reading_refuses_what_no_config_expresses(changes, message):
    with pytest.raises(ValueError) as error:
        bamba.read(Attributes(PUBLISHED | changes))
    assert message in str(error.value)


WRITING = {
    "logit_soft_cap=3.0 must be 0.0 in this family": TINY["few"].replace(logit_soft_cap=3.0),
    "layers must hold attention in this family": bamba.compose(
        **SIZES, num_layers=3, attention_layers=(), num_kv_heads=1
    ),
    "must turn 0.5 of the channels": bamba.compose(
        **SIZES, num_layers=3, attention_layers=(1,), num_kv_heads=1, position=rope.Config()
    ),
    "times head_dim=5 of mamba2 must be a multiple of embed_dim=12": bamba.compose(
        **SIZES | dict(state_head_dim=5), num_layers=3, attention_layers=(1,), num_kv_heads=1
    ),
    "model='encoder' must be 'decoder'": encoder.Config(vocab_size=11, embed_dim=12, layers=TINY["few"].layers),
}


@pytest.mark.parametrize("message", WRITING)
def test_writing_refuses_what_their_config_cannot_say(message):
    with pytest.raises(ValueError) as error:
        bamba.write(WRITING[message])
    assert message in str(error.value)
