"""Griffin's presets have the published number of parameters, its config.json is read and written whole, both ways.

tests/parity holds what it computes to transformers.
"""

import collections

import pytest

from arch.families import griffin
from arch.ffns import mlp
from arch.layers import stack
from arch.models import encoder
from arch.positions import rope, rope_linear
from arch.published import Attributes
from arch.weights import family
from tests.families import fit

COUNTS = {"recurrentgemma_2b": 2_682_862_080, "recurrentgemma_9b": 8_579_977_216}
"""Table 1 of the paper prints 2.7B and 8.6B."""

PUBLISHED = {
    "_block_types": ["recurrent", "recurrent", "attention"],
    "architectures": ["RecurrentGemmaForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "attention_window_size": 2048,
    "block_types": ["recurrent", "recurrent", "attention"],
    "bos_token_id": 2,
    "conv1d_width": 4,
    "embeddings_scale_by_sqrt_dim": True,
    "eos_token_id": 1,
    "final_w_init_variance_scale": 0.07692307692307693,
    "head_dim": 256,
    "hidden_activation": "gelu_pytorch_tanh",
    "hidden_size": 2560,
    "intermediate_size": 15360,
    "logits_soft_cap": 30.0,
    "lru_width": 2560,
    "model_type": "recurrent_gemma",
    "num_attention_heads": 10,
    "num_hidden_layers": 26,
    "num_key_value_heads": 1,
    "pad_token_id": 0,
    "partial_rotary_factor": 0.5,
    "rms_norm_eps": 1e-06,
    "rope_theta": 10000.0,
    "torch_dtype": "bfloat16",
    "use_cache": True,
    "vocab_size": 256000,
    "w_init_variance_scale": 0.01,
}
"""The config.json of RecurrentGemma 2B."""

SIZES = dict(embed_dim=24, num_layers=5, num_heads=3, hidden_dim=7, vocab_size=11)
TINY = {
    "two to one": griffin.compose(**SIZES),
    "all its own": griffin.compose(
        **SIZES,
        inner_dim=15,
        num_kv_heads=3,
        window=4,
        conv_width=2,
        position=rope.Config(fraction=0.25, theta=9.0),
        epsilon=0.1,
        attention_bias=True,
        attention_dropout=0.1,
        logit_soft_cap=2.5,
        tie_embeddings=False,
        period=("attention", "rg_lru"),
    ),
}


@pytest.mark.parametrize("name", ["recurrentgemma_2b", pytest.param("recurrentgemma_9b", marks=pytest.mark.slow)])
def test_a_preset_has_the_published_number_of_parameters(name):
    assert sum(leaf.size for leaf in fit.shapes(griffin.PRESETS[name]).values()) == COUNTS[name]


def test_every_preset_is_held_here():
    assert griffin.PRESETS.keys() == COUNTS.keys()


def test_every_third_layer_attends_and_the_last_two_do_not():
    labels = [layer.labels[0] for layer in griffin.PRESETS["recurrentgemma_2b"].layers.blocks]
    assert collections.Counter(labels) == {"rg_lru": 18, "attention": 8}
    assert all(label == "attention" for label in labels[2::3]) and labels[-2:] == ["rg_lru"] * 2


def test_the_published_config_json_reads_as_its_preset():
    assert family.reading("recurrent_gemma") is griffin
    assert griffin.read(Attributes(PUBLISHED)) == griffin.PRESETS["recurrentgemma_2b"]


@pytest.mark.parametrize("config", [*griffin.PRESETS.values(), *TINY.values()])
def test_reading_what_was_written_gives_the_config_back(config):
    assert griffin.read(Attributes(griffin.write(config))) == config


@pytest.mark.parametrize("name", TINY)
def test_the_rules_name_each_weight_once_and_are_undone_by_saving(name):
    assert fit.misfits(griffin, TINY[name]) == []


def test_this_family_alone_writes_a_model():
    assert family.writing(TINY["two to one"])[0] is griffin


def test_layers_count_however_the_stack_groups_them():
    config = TINY["all its own"]
    unrolled = config.replace(layers=stack.Config(pattern=config.layers.blocks))
    assert griffin.write(unrolled) == griffin.write(config)


def test_key_value_heads_that_are_unsaid_are_one_for_each_query_head():
    attributes = {name: value for name, value in PUBLISHED.items() if name != "num_key_value_heads"}
    assert griffin.read(Attributes(attributes)).layers.pattern[2].sublayers[0].kv_heads == 10


READING = [
    ({"new_trick": 1}, "new_trick=1 is not handled"),
    ({"hidden_activation": "silu"}, "hidden_activation='silu' must be 'gelu_pytorch_tanh'"),
    ({"embeddings_scale_by_sqrt_dim": False}, "embeddings_scale_by_sqrt_dim=False must be True"),
    ({"head_dim": 128}, "head_dim=128 must be 256"),
    ({"num_attention_heads": 11}, "embed_dim=2560 must be a multiple of num_heads=11"),
    ({"block_types": ["recurrent", "mamba"]}, "must be of recurrent and attention, not 'mamba'"),
    ({"attention_window_size": 0}, "window=0 must be positive in this family"),
    ({"logits_soft_cap": 0.0}, "logit_soft_cap=0.0 must be positive in this family"),
    ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "must be rope in this family"),
]


@pytest.mark.parametrize("changes, message", READING)
def test_reading_refuses_what_no_config_expresses(changes, message):
    with pytest.raises(ValueError) as error:
        griffin.read(Attributes(PUBLISHED | changes))
    assert message in str(error.value)


WRITING = [
    (TINY["two to one"].replace(logit_scale=0.5), "logit_scale=0.5 must be 1.0 in this family"),
    (griffin.compose(**SIZES, period=("rg_lru",)), "layers must hold attention in this family"),
    (griffin.compose(**SIZES, window=0), "window=0 must be positive in this family"),
    (griffin.compose(**SIZES, position=rope_linear.Config(factor=2.0)), "must be rope in this family"),
    (
        encoder.Config(vocab_size=11, embed_dim=24, layers=TINY["two to one"].layers),
        "model='encoder' must be 'decoder'",
    ),
]


@pytest.mark.parametrize("config, message", WRITING, ids=[message for _, message in WRITING])
def test_writing_refuses_what_their_config_cannot_say(config, message):
    with pytest.raises(ValueError) as error:
        griffin.write(config)
    assert message in str(error.value)


def test_writing_refuses_one_layer_that_is_another():
    config = TINY["two to one"]
    other = config.layers.pattern[0].replace(sublayers=(mlp.Config(hidden_dim=3),))
    with pytest.raises(ValueError, match="period=.*'mlp'.* must be of 'rg_lru' and 'attention'"):
        griffin.write(config.replace(layers=config.layers.replace(suffix=(other,))))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(num_heads=5), "embed_dim=24 must be a multiple of num_heads=5"),
        (dict(period=("mamba",)), "must be of 'rg_lru' and 'attention'"),
        (dict(num_layers=2), "of at most 2 layers"),
    ],
)
def test_what_cannot_be_raises(changes, message):
    with pytest.raises(ValueError, match=message):
        griffin.compose(**SIZES | changes)
