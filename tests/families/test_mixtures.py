"""Families of mixtures of experts: sizes in all and of a token, paths, config.json both ways, rules, refusals."""

import functools

import pytest

from arch.families import deepseek
from arch.positions import rope, rope_yarn
from arch.published import Attributes, differences
from arch.routers import sigmoid, top_k
from arch.weights import family
from tests.families import fit
from tests.families.published_mixtures import DEEPSEEK_V2_LITE, DEEPSEEK_V3, PUBLISHED

AROUND = "embedding/table embedding/output norm/scale"
LATENT = """latent_attention_norm/scale latent_attention/query latent_attention/latent_down latent_attention/rope_key
    latent_attention/latent_norm/scale latent_attention/key latent_attention/value latent_attention/out"""
QUERY_LATENT = f"{LATENT} latent_attention/query_down latent_attention/query_norm/scale"
DENSE = "gated_mlp_norm/scale gated_mlp/gate gated_mlp/up gated_mlp/down"
SPARSE = "moe_norm/scale moe/router moe/gate moe/up moe/down"
SHARED = f"{SPARSE} moe/shared/gate moe/shared/up moe/shared/down"

PRESETS = {
    # Printed: 15.7B with 2.4B of a token (the input table left out), 236B with 21B, 671B with 37B.
    "deepseek_v2_lite": (15_706_484_224, 2_661_150_208, (1, f"{LATENT} {DENSE}"), (26, f"{LATENT} {SHARED}")),
    "deepseek_v2": (
        235_741_434_880, 21_375_800_320, (1, f"{QUERY_LATENT} {DENSE}"), (59, f"{QUERY_LATENT} {SHARED}"),
    ),
    "deepseek_v3": (
        671_026_419_200, 37_552_297_472,
        (3, f"{QUERY_LATENT} {DENSE}"), (58, f"{QUERY_LATENT} {SHARED} moe/router_bias"),
    ),
}  # fmt: skip
"""Parameters of each preset, those that a token meets, and how many layers have which paths, in order."""
FAMILIES = {name: module for module in (deepseek,) for name in module.PRESETS}

SIZES = dict(vocab_size=11, embed_dim=12, num_layers=2, num_heads=3)
LATENTS = dict(latent_dim=5, head_dim=6, rope_dim=4, value_dim=7)
DEEPSEEK = SIZES | LATENTS | dict(hidden_dim=13, expert_dim=3, num_experts=6, num_shared=2, top_k=4, dense_layers=1)
YARN = rope_yarn.Config(factor=4.0, original_length=8, amplitude=1.2, pairing="interleaved")
THIRD = dict(router=sigmoid.Config(num_groups=3, top_groups=2, scale=1.5), bias_rate=0.001, renormalize=True)
TINY = {
    "deepseek_v2": (deepseek, deepseek.compose(**DEEPSEEK, position=YARN)),
    "deepseek_v2_groups": (
        deepseek,
        deepseek.compose(
            **DEEPSEEK | dict(dense_layers=0), router=top_k.Config(num_groups=3, top_groups=2, scale=2.0)
        ),
    ),
    "deepseek_v3": (deepseek, deepseek.compose(**DEEPSEEK, **THIRD, query_latent_dim=8)),
    "deepseek_v3_halves": (deepseek, deepseek.compose(**DEEPSEEK, **THIRD, position=rope.Config(theta=9.0))),
}


@functools.cache
def shapes(name):
    return fit.shapes(FAMILIES[name].PRESETS[name])


def test_every_preset_is_counted():
    assert set(FAMILIES) == set(PRESETS)


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_has_the_published_number_of_parameters_in_all_and_of_a_token(name):
    count = sum(leaf.size for leaf in shapes(name).values())
    assert (count, count - FAMILIES[name].PRESETS[name].idle_parameters()) == PRESETS[name][:2]


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_s_paths_are_those_of_the_contract(name):
    layers = [paths.split() for times, paths in PRESETS[name][2:] for _ in range(times)]
    expected = [f"layers/{i}/{path}" for i, paths in enumerate(layers) for path in paths]
    assert sorted(shapes(name)) == sorted([*AROUND.split(), *expected])


@pytest.mark.parametrize("name", PRESETS)
def test_reading_what_was_written_of_a_preset_gives_it_back(name):
    module = FAMILIES[name]
    assert module.read(Attributes(module.write(module.PRESETS[name]))) == module.PRESETS[name]


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_config_json_reads_as_its_preset(name):
    assert family.reading(PUBLISHED[name]["model_type"]) is FAMILIES[name]
    assert FAMILIES[name].read(Attributes(PUBLISHED[name])) == FAMILIES[name].PRESETS[name]


@pytest.mark.parametrize("name", TINY)
def test_the_rules_name_each_weight_once_and_are_undone_by_saving(name):
    module, cfg = TINY[name]
    assert fit.misfits(module, cfg) == []


@pytest.mark.parametrize("name", TINY)
def test_reading_what_was_written_gives_the_config_back(name):
    module, cfg = TINY[name]
    assert module.read(Attributes(module.write(cfg))) == cfg


@pytest.mark.parametrize("name", TINY)
def test_one_family_alone_writes_a_model(name):
    module, cfg = TINY[name]
    assert family.writing(cfg)[0] is module


READING = [
    (DEEPSEEK_V2_LITE, {"new_trick": 1}, "new_trick=1 is not handled"),
    (DEEPSEEK_V2_LITE, {"norm_topk_prob": True}, "norm_topk_prob=True must be False"),
    (DEEPSEEK_V2_LITE, {"topk_method": "noaux_tc"}, "topk_method='noaux_tc' must be greedy or group_limited_greedy"),
    (DEEPSEEK_V2_LITE, {"num_key_value_heads": 4}, "num_key_value_heads=4 must be 16"),
    (DEEPSEEK_V2_LITE, {"first_k_dense_replace": 27}, "dense_layers=27 must be at least 0 and below num_layers=27 "),
    (DEEPSEEK_V3, {"num_experts_per_tok": 4}, "top_k=4 must be 2 * top_groups=4"),
    (DEEPSEEK_V3, {"quantization_config": {"quant_method": "fp8"}}, "quantization_config={'quant_method': 'fp8'} is n"),
    (DEEPSEEK_V3, {"rope_scaling": {"type": "linear", "factor": 2, "mscale_all_dim": 1.0}}, "mscale_all_dim=1.0 must"),
]


@pytest.mark.parametrize("attributes, changes, message", READING)
def test_reading_refuses_what_no_config_expresses(attributes, changes, message):
    with pytest.raises(ValueError) as error:
        family.reading(attributes["model_type"]).read(Attributes(attributes | changes))
    assert message in str(error.value)


def changed(name, number, **fields):
    """A tiny model with one sublayer of its repeated layers changed."""
    cfg = TINY[name][1]
    layer = cfg.layers.pattern[-1]
    parts = tuple(part.replace(**fields) if i == number else part for i, part in enumerate(layer.sublayers))
    pattern = (*cfg.layers.pattern[:-1], layer.replace(sublayers=parts))
    return cfg.replace(layers=cfg.layers.replace(pattern=pattern))


WRITING = [
    ("deepseek_v2", 1, {"renormalize": True}, "renormalize=True must be False in this family"),
    ("deepseek_v2", 1, {"router": top_k.Config(order="select_then_softmax")}, "order='select_then_softmax' must be "),
    ("deepseek_v2_groups", 0, {"position": rope.Config()}, "pairing='halves' must be 'interleaved' in this family"),
    ("deepseek_v2_groups", 0, {"scale": 0.7}, "scale=0.7 must be 0 or YaRN's temperature in this family"),
    ("deepseek_v3", 1, {"bias_rate": 0.0}, "bias_rate=0.0 must be positive in this family with a sigmoid router"),
    ("deepseek_v3", 1, {"top_k": 2}, "top_k=2 must be 2 * top_groups=2 in this family"),
    ("deepseek_v3", 1, {"shared_dim": 5}, "shared_dim=5 must be 3 in this family"),
]


@pytest.mark.parametrize("name, number, fields, message", WRITING)
def test_writing_refuses_what_their_config_cannot_say(name, number, fields, message):
    with pytest.raises(ValueError) as error:
        TINY[name][0].write(changed(name, number, **fields))
    assert message in str(error.value)


def test_the_modules_that_predict_further_tokens_are_not_read():
    module, cfg = TINY["deepseek_v3"]
    names = fit.theirs(module, cfg) | {"model.layers.2.eh_proj.weight", "model.layers.2.mlp.gate.weight"}
    assert differences(module.rules(cfg), fit.shapes(cfg), names, fit.optional(module, cfg)) == []


def test_yarn_s_temperature_of_whole_heads_is_in_the_logits_scale():
    mixer = deepseek.PRESETS["deepseek_v2_lite"].layers.blocks[0].sublayers[0]
    assert mixer.scale == pytest.approx(192**-0.5 * (0.0707 * 3.6888794541139363 + 1) ** 2, rel=1e-12)
