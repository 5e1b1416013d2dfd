"""A decoder family's config.json says what the config says, both ways, and what it cannot say raises."""

import pytest

from arch.families import falcon, llama, mamba_lm, mixtral
from arch.ffns import mlp
from arch.layers import embedding, stack
from arch.models import encoder
from arch.positions import alibi, none, rope, rope_llama3, rope_ntk, rope_yarn
from arch.published import Attributes
from tests.families import fit, golden
from tests.families.published_configs import PUBLISHED
from tests.families.test_presets import family_file
from tests.families.tiny import LLAMA, SIZES, TINY

FAMILIES = {kind: family_file(name) for name in golden.PRESETS for kind in family_file(name).MODEL_TYPES}
YARN = {"type": "yarn", "factor": 2.0, "original_max_position_embeddings": 8}
SCALED = ["llama_linear", "llama_yarn", "llama_yarn_all", "llama_llama3"]


@pytest.fixture(params=TINY)
def tiny(request):
    return TINY[request.param]


def written(name):
    family, cfg = TINY[name]
    return family.write(cfg)


def read(name, **changes):
    """The config of a tiny model's config.json with some attributes changed; `...` takes one out."""
    attributes = {key: value for key, value in (written(name) | changes).items() if value is not ...}
    return TINY[name][0].read(Attributes(attributes))


def changed_sublayer(cfg, i, **changes):
    """The config with one sublayer of each layer changed."""
    layer = cfg.layers.pattern[0]
    sublayers = tuple(s.replace(**changes) if j == i else s for j, s in enumerate(layer.sublayers))
    return cfg.replace(layers=cfg.layers.replace(pattern=(layer.replace(sublayers=sublayers),)))


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_config_json_reads_as_its_preset(name):
    preset, attributes = PUBLISHED[name]
    family = FAMILIES[attributes["model_type"]]
    expected = family.PRESETS[preset]
    assert family.read(Attributes(attributes)) == (fit.as_read(expected) if family is mixtral else expected)


def test_reading_what_was_written_gives_the_config_back(tiny):
    family, cfg = tiny
    assert family.read(Attributes(family.write(cfg))) == cfg


def test_an_attribute_that_nobody_knows_raises(tiny):
    family, cfg = tiny
    with pytest.raises(ValueError, match="new_trick=1 is not handled"):
        family.read(Attributes(family.write(cfg) | {"new_trick": 1}))


REFUSED = [
    ("gpt", {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx=True must be False"),
    ("gpt", {"add_cross_attention": True}, "add_cross_attention=True must be False"),
    ("gpt", {"activation_function": "mish"}, "activation_function='mish' must be one of gelu, "),
    ("gpt", {"n_embd": ...}, "n_embd is missing"),
    ("gpt", {"n_embd": 13}, "embed_dim=13 must be a multiple of num_heads=6"),
    ("gpt_neox", {"rotary_pct": 0.5}, "fraction=0.5 of head_dim=2 must be an even number of channels"),
    ("gpt_neox", {"hidden_dropout_prob": 0.1}, "hidden_dropout_prob=0.1 must be 0"),
    ("falcon_7b", {"num_ln_in_parallel_attn": 2}, "num_ln_in_parallel_attn=2 must be 1"),
    ("falcon_40b", {"parallel_attn": False}, "parallel_attn=False must be True"),
    ("llama", {"rope_interleaved": True}, "rope_interleaved=True must be False"),
    ("llama", {"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "rope_type='dynamic' must be one of default, "),
    ("llama", {"rope_parameters": {"partial_rotary_factor": 0.5}}, "partial_rotary_factor=0.5 must be 1.0"),
    ("llama_yarn", {"rope_scaling": YARN | {"mscale": 2.0}}, "rope_scaling: mscale=2.0 is not handled"),
    ("llama_yarn", {"rope_parameters": YARN}, "rope_scaling={"),
    ("llama_linear", {"rope_scaling": {"type": "linear"}}, "rope_scaling: factor is missing"),
    ("llama", {"quantization_config": {"bits": 4}}, "quantization_config={'bits': 4} is not handled"),
    ("bloom", {"apply_residual_connection_post_layernorm": True}, "post_layernorm=True must be False"),
    ("mamba", {"use_bias": True}, "use_bias=True must be False"),
    ("mamba", {"mixer_rms_eps": 0.1}, "mixer_rms_eps=0.1 is not handled"),
    ("mixtral", {"router_jitter_noise": 0.1}, "router_jitter_noise=0.1 must be 0.0"),
]


@pytest.mark.parametrize("name, changes, message", REFUSED)
def test_reading_refuses_what_no_config_expresses(name, changes, message):
    with pytest.raises(ValueError) as error:
        read(name, **changes)
    assert message in str(error.value)


def test_writing_refuses_a_model_around_the_layers_that_the_family_does_not_have(tiny):
    family, cfg = tiny
    with pytest.raises(ValueError, match="logit_soft_cap=3.0 must be 0.0 in this family"):
        family.write(cfg.replace(logit_soft_cap=3.0))


def test_writing_refuses_layers_that_differ(tiny):
    family, cfg = tiny
    other = cfg.layers.pattern[0].replace(norm=cfg.norm.replace(epsilon=0.1))
    with pytest.raises(ValueError, match=r"layers\[2\].norm.epsilon=0.1 must be 1e-05 in this family"):
        family.write(cfg.replace(layers=cfg.layers.replace(suffix=(other,))))


def test_writing_refuses_a_placement_of_norms_that_the_family_does_not_have(tiny):
    family, cfg = tiny
    layer = cfg.layers.pattern[0].replace(placement="sandwich")
    with pytest.raises(ValueError, match="placement='sandwich' must be "):
        family.write(cfg.replace(layers=cfg.layers.replace(pattern=(layer,))))


def test_writing_refuses_other_sublayers(tiny):
    family, cfg = tiny
    layer = cfg.layers.pattern[0].replace(sublayers=(mlp.Config(hidden_dim=3),))
    with pytest.raises(ValueError, match=r"layers\[0\].sublayers=\(mlp\) must be \("):
        family.write(cfg.replace(layers=stack.Config(pattern=(layer,))))


def test_writing_refuses_another_model(tiny):
    family, cfg = tiny
    other = encoder.Config(vocab_size=11, embed_dim=12, layers=cfg.layers)
    with pytest.raises(ValueError, match="model='encoder' must be 'decoder' in this family"):
        family.write(other)


def test_what_only_training_reads_is_not_refused(tiny):
    family, cfg = tiny
    other = cfg.replace(
        dtype="bfloat16", embedding=embedding.Config(stddev=1.0), layers=cfg.layers.replace(remat="full")
    )
    assert family.write(other) == family.write(cfg)


def test_layers_count_however_the_stack_groups_them(tiny):
    family, cfg = tiny
    layer = cfg.layers.pattern[0]
    assert family.write(cfg.replace(layers=stack.Config(prefix=(layer,), pattern=(layer,)))) == family.write(cfg)


def test_multi_head_attention_may_leave_its_key_value_heads_unsaid():
    family, cfg = TINY["llama"]
    assert family.write(changed_sublayer(cfg, 0, num_kv_heads=0)) == family.write(cfg)


@pytest.mark.parametrize("field, value", [("soft_cap", 2.0), ("sinks", True), ("window", 3), ("bias", "qkv")])
def test_writing_refuses_attention_that_llama_does_not_have(field, value):
    with pytest.raises(ValueError, match=rf"layers\[0\].sublayers\[0\].{field}={value!r} must be "):
        llama.write(changed_sublayer(TINY["llama"][1], 0, **{field: value}))


UNSAYABLE = [
    rope_ntk.Config(factor=2.0),
    alibi.Config(),
    rope.Config(pairing="interleaved"),
    rope.Config(fraction=0.5),
    rope_yarn.Config(factor=2.0, original_length=8, fraction=0.5),
]


@pytest.mark.parametrize("position", UNSAYABLE, ids=str)
def test_writing_refuses_positions_that_llama_does_not_have(position):
    with pytest.raises(ValueError, match="^position=.* in this family"):
        llama.write(llama.compose(**LLAMA, position=position))


@pytest.mark.parametrize("name", SCALED)
def test_older_and_newer_names_of_rotary_schemes_read_alike(name):
    attributes = written(name)
    newer = attributes["rope_scaling"] | {"rope_theta": attributes["rope_theta"]}
    assert read(name, rope_scaling=..., rope_theta=..., rope_parameters=newer) == TINY[name][1]


def test_yarn_s_original_length_is_the_model_s_where_it_is_unsaid():
    scaling = {"type": "yarn", "factor": 2.0}
    assert read("llama_yarn", rope_scaling=scaling, max_position_embeddings=8) == TINY["llama_yarn"][1]


def test_llama_3_s_scheme_keeps_its_numbers():
    position = read("llama_llama3").layers.pattern[0].sublayers[0].position
    expected = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_length": 16}
    assert position == rope_llama3.Config(**expected)


@pytest.mark.parametrize("theirs, ours", [(..., 4096), (None, 0), (3, 3)])
def test_mistral_s_window_is_4096_where_it_is_unsaid_and_none_where_it_is_null(theirs, ours):
    assert read("mistral", sliding_window=theirs).layers.pattern[0].sublayers[0].window == ours


@pytest.mark.parametrize("name", ["gpt_neox", "falcon_7b"])
def test_writing_refuses_positions_that_are_not_rotary(name):
    family, cfg = TINY[name]
    with pytest.raises(ValueError, match="position='none' must be one of rope, "):
        family.write(changed_sublayer(cfg, 0, position=none.Config()))


def test_writing_refuses_a_sequential_falcon_with_grouped_heads():
    cfg = falcon.compose(**SIZES, num_kv_heads=2, placement="pre")
    with pytest.raises(ValueError, match="num_kv_heads=2 must be 1 or num_heads=6 with placement='pre'"):
        falcon.write(cfg)


def test_writing_refuses_a_mamba_whose_inner_width_is_no_multiple():
    cfg = mamba_lm.compose(embed_dim=12, num_layers=1, inner_dim=13)
    with pytest.raises(ValueError, match="inner_dim=13 must be a multiple of embed_dim=12"):
        mamba_lm.write(cfg)


def test_writing_refuses_a_mamba_whose_inner_norms_have_scales():
    cfg = changed_sublayer(TINY["mamba"][1], 0, inner_norms="scaled")
    with pytest.raises(ValueError, match="inner_norms='scaled' must be 'none' or 'plain' in this family"):
        mamba_lm.write(cfg)


# rope_theta, rms_norm_eps, num_key_value_heads of transformers 5.23.0's LlamaConfig(num_attention_heads=16) and so on
CLASS_DEFAULTS = {"llama": (1e4, 1e-6, 16), "mistral": (1e4, 1e-6, 8), "mixtral": (1e6, 1e-5, 8)}
UNSAID = {"rope_theta": ..., "rms_norm_eps": ..., "num_key_value_heads": ..., "head_dim": ...}


@pytest.mark.parametrize("name", CLASS_DEFAULTS)
def test_what_a_config_leaves_unsaid_is_as_in_the_class_that_reads_it_in_transformers(name):
    layer = read(name, hidden_size=96, num_attention_heads=16, **UNSAID).layers.pattern[0]
    mixer = layer.sublayers[0]
    assert (mixer.position.theta, layer.norm.epsilon, mixer.kv_heads) == CLASS_DEFAULTS[name]


@pytest.mark.parametrize("name", CLASS_DEFAULTS)
def test_null_key_value_heads_are_one_for_each_query_head(name):
    assert read(name, num_key_value_heads=None).layers.pattern[0].sublayers[0].kv_heads == 6


def test_a_mixtral_is_read_without_losses_of_the_router():
    moe = read("mixtral", router_aux_loss_coef=0.02, output_router_logits=True).layers.pattern[0].sublayers[1]
    assert (moe.balance_weight, moe.z_weight) == (0.0, 0.0)


def test_a_mixtral_that_trains_with_losses_of_the_router_is_written_like_one_without():
    cfg = mixtral.compose(**LLAMA, num_experts=3, top_k=2, window=4, balance_weight=0.1, z_weight=0.2)
    assert mixtral.write(cfg) == written("mixtral")
