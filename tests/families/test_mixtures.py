"""Families of mixtures of experts: sizes in all and of a token, paths, config.json both ways, rules, refusals."""

import functools

import pytest

from arch.families import deepseek, glam, gshard, jamba, qwen_moe, switch_transformer
from arch.positions import rope, rope_yarn
from arch.published import Attributes, differences
from arch.routers import sigmoid, switch, top_k
from arch.weights import family
from tests.families import fit
from tests.families.published_mixtures import DEEPSEEK_V2_LITE, DEEPSEEK_V3, JAMBA, PUBLISHED, QWEN1_5, QWEN3, SWITCH

AROUND = "embedding/table embedding/output norm/scale"
LATENT = """latent_attention_norm/scale latent_attention/query latent_attention/latent_down latent_attention/rope_key
    latent_attention/latent_norm/scale latent_attention/key latent_attention/value latent_attention/out"""
QUERY_LATENT = f"{LATENT} latent_attention/query_down latent_attention/query_norm/scale"
DENSE = "gated_mlp_norm/scale gated_mlp/gate gated_mlp/up gated_mlp/down"
SPARSE = "moe_norm/scale moe/router moe/gate moe/up moe/down"
SHARED = f"{SPARSE} moe/shared/gate moe/shared/up moe/shared/down"
ATTENTION = "attention_norm/scale attention/query attention/key attention/value attention/out"
BIASED = f"{ATTENTION} attention/query_bias attention/key_bias attention/value_bias"
NORMED = f"{ATTENTION} attention/query_norm/scale attention/key_norm/scale"
MAMBA = """mamba_norm/scale mamba/in mamba/gate mamba/conv mamba/conv_bias mamba/dt_down mamba/dt_norm/scale mamba/dt_up
    mamba/dt_bias mamba/B mamba/B_norm/scale mamba/C mamba/C_norm/scale mamba/A_log mamba/D mamba/out"""
RELATIVE = f"{ATTENTION} attention/relative"
UNGATED = "moe_norm/scale moe/router moe/up moe/down"
GLAM = [f"{RELATIVE} {ffn}" for ffn in (UNGATED, DENSE)]
JAMBA_PERIOD = [f"{ATTENTION if i == 4 else MAMBA} {SPARSE if i % 2 else DENSE}" for i in range(8)]

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
    # Printed: 14.3B with 2.7B, 57B with 14B, 30B with 3B, 235B with 22B.
    "qwen1_5_moe_a2_7b": (14_315_784_192, 2_689_173_504, (24, f"{BIASED} {SHARED} moe/shared_gate")),
    "qwen2_57b_a14b": (57_408_658_944, 14_249_270_784, (28, f"{BIASED} {SHARED} moe/shared_gate")),
    "qwen3_30b_a3b": (30_532_122_624, 3_353_032_704, (48, f"{NORMED} {SPARSE}")),
    "qwen3_235b_a22b": (235_093_634_560, 22_190_763_520, (94, f"{NORMED} {SPARSE}")),
    # Printed: 52B with 12B, 398B with 94B.
    "jamba_v0_1": (51_570_323_328, 12_110_311_296, *((1, paths) for paths in JAMBA_PERIOD * 4)),
    "jamba_1_5_large": (398_555_145_696, 94_149_338_592, *((1, paths) for paths in JAMBA_PERIOD * 9)),
    # Printed: 143B with 9.8B (the table left out, 9.7B here), 1.2T with 96.6B.
    "glam_8b_64e": (143_860_731_904, 10_716_745_728, *((1, paths) for paths in GLAM * 16)),
    "glam_64b_64e": (1_161_756_418_048, 96_604_528_640, *((1, paths) for paths in GLAM * 32)),
    "expert_choice_8b_64e": (143_860_731_904, 10_716_745_728, *((1, paths) for paths in GLAM * 16)),
}  # fmt: skip
"""Parameters of each preset, those that a token meets, and how many layers have which paths, in order."""
SWITCHES = {
    # The release prints 0.62B, 1.07B, 1.98B, 3.8B, 7.4B, 14.7B, 26.3B; table 9 of the paper 1,571B.
    "switch_base_8": 619_339_008,
    "switch_base_16": 1_072_397_568,
    "switch_base_32": 1_978_514_688,
    "switch_base_64": 3_790_748_928,
    "switch_base_128": 7_415_217_408,
    "switch_base_256": 14_664_154_368,
    "switch_large_128": 26_309_291_008,
    "switch_c_2048": 1_571_308_972_448,
}
"""Parameters of each Switch Transformer."""
GSHARDS = {
    "gshard_600b": (600e9, 619_333_738_496),
    "gshard_200b": (200e9, 206_488_272_896),
    "gshard_150b": (150e9, 155_448_958_976),
    "gshard_50b": (50e9, 51_860_013_056),
    "gshard_37b": (37e9, 39_477_764_096),
    "gshard_12_5b": (12.5e9, 13_202_948_096),
}
"""Parameters of each GShard, as table 1 prints them, and counted."""
FAMILIES = {name: module for module in (deepseek, jamba, qwen_moe, glam) for name in module.PRESETS}
ALL = {name: module for name, module in FAMILIES.items() if module is not glam}
ALL |= dict.fromkeys(SWITCHES, switch_transformer)

SIZES = dict(vocab_size=11, embed_dim=12, num_layers=2, num_heads=3)
LATENTS = dict(latent_dim=5, head_dim=6, rope_dim=4, value_dim=7)
DEEPSEEK = SIZES | LATENTS | dict(hidden_dim=13, expert_dim=3, num_experts=6, num_shared=2, top_k=4, dense_layers=1)
QWEN = SIZES | dict(hidden_dim=5, num_experts=4, top_k=2)
JAMBAS = SIZES | dict(hidden_dim=5, num_experts=4, num_kv_heads=3, state_dim=2)
del JAMBAS["num_layers"]
SWITCHED = dict(embed_dim=6, num_heads=2, head_dim=5, hidden_dim=7, num_experts=3, vocab_size=11, buckets=6)
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
    "qwen2_moe": (qwen_moe, qwen_moe.compose(**QWEN, shared_dim=5, bias="qkv")),
    "qwen3_moe": (qwen_moe, qwen_moe.compose(**QWEN, qk_norm=True, renormalize=True, num_kv_heads=1)),
    "jamba": (jamba, jamba.compose(**JAMBAS, num_layers=6, attention_period=2, attention_offset=1, expert_period=4)),
    "jamba_short": (jamba, jamba.compose(**JAMBAS, num_layers=6, dt_rank=2, inner_dim=36, tie_embeddings=True)),
    "switch": (switch_transformer, switch_transformer.compose(**SWITCHED, num_layers=5)),
    "switch_all": (switch_transformer, switch_transformer.compose(**SWITCHED, num_layers=1, step=1)),
    "switch_thirds": (
        switch_transformer,
        switch_transformer.compose(
            **SWITCHED, num_layers=8, step=4, decoder_layers=3, decoder_step=3, tie_embeddings=False
        ),
    ),
}


def one_of_each(names, kind):
    """The names, all but the first of each kind slow."""
    seen = set()
    new = {name: not (kind(name) in seen or seen.add(kind(name))) for name in names}
    return [pytest.param(name, marks=[pytest.mark.slow] * (not new[name])) for name in names]


@functools.cache
def shapes(name):
    return fit.shapes((FAMILIES | ALL)[name].PRESETS[name])


def test_every_preset_is_counted():
    assert set(FAMILIES) == set(PRESETS) and switch_transformer.PRESETS.keys() == SWITCHES.keys()
    assert gshard.PRESETS.keys() == GSHARDS.keys()


@pytest.mark.parametrize("name", one_of_each(PRESETS, FAMILIES.get))
def test_a_preset_has_the_published_number_of_parameters_in_all_and_of_a_token(name):
    count = sum(leaf.size for leaf in shapes(name).values())
    assert (count, count - FAMILIES[name].PRESETS[name].idle_parameters()) == PRESETS[name][:2]


@pytest.mark.parametrize("name", one_of_each(SWITCHES, lambda name: name.split("_")[1]))
def test_a_switch_has_the_published_number_of_parameters(name):
    assert sum(leaf.size for leaf in shapes(name).values()) == SWITCHES[name]


@pytest.mark.parametrize("name", one_of_each(GSHARDS, lambda name: "gshard"))
def test_a_gshard_has_about_the_printed_number_of_parameters(name):
    printed, counted = GSHARDS[name]
    found = sum(leaf.size for leaf in fit.shapes(gshard.PRESETS[name]).values())
    assert found == counted and abs(found / printed - 1) < 0.07


def test_every_other_layer_of_both_sides_of_a_switch_has_experts():
    cfg = switch_transformer.PRESETS["switch_base_8"]
    for layers in (cfg.encoder.blocks, cfg.decoder.blocks):
        assert ["moe" in layer.labels for layer in layers] == [False, True] * 6


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_s_paths_are_those_of_the_contract(name):
    layers = [paths.split() for times, paths in PRESETS[name][2:] for _ in range(times)]
    expected = [f"layers/{i}/{path}" for i, paths in enumerate(layers) for path in paths]
    around = [path for path in AROUND.split() if FAMILIES[name] is not glam or path != "embedding/output"]
    assert sorted(shapes(name)) == sorted([*around, *expected])


def read_form(name):
    """A preset as its family reads it; Switch's own balance loss is part of its published config."""
    preset = ALL[name].PRESETS[name]
    return preset if name in SWITCHES else fit.as_read(preset)


@pytest.mark.parametrize("name", ALL)
def test_reading_what_was_written_of_a_preset_gives_it_back(name):
    module = ALL[name]
    assert module.read(Attributes(module.write(module.PRESETS[name]))) == read_form(name)


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_config_json_reads_as_its_preset(name):
    assert family.reading(PUBLISHED[name]["model_type"]) is ALL[name]
    assert ALL[name].read(Attributes(PUBLISHED[name])) == read_form(name)


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
    (QWEN1_5, {"mlp_only_layers": [0]}, "mlp_only_layers=[0] must be [] or None"),
    (QWEN1_5, {"decoder_sparse_step": 2}, "decoder_sparse_step=2 must be 1"),
    (QWEN1_5, {"use_sliding_window": True}, "use_sliding_window=True must be False"),
    (QWEN1_5, {"layer_types": ["sliding_attention"]}, "layer_types=['sliding_attention'] must be full_attention"),
    (QWEN3, {"rms_norm_eps": 1e-5}, "rms_norm_eps=1e-05 must be 1e-6, that of the heads' norms"),
    (JAMBA, {"mamba_proj_bias": True}, "mamba_proj_bias=True must be False"),
    (JAMBA, {"num_experts": 1}, "num_experts=1 must be at least 2"),
    (JAMBA, {"attn_layer_offset": 8}, "attention_offset=8 must be at least 0 and below attention_period=8"),
    (SWITCH, {"router_bias": True}, "router_bias=True must be False"),
    (SWITCH, {"num_sparse_encoder_layers": 13}, "num_sparse_encoder_layers=13 must be from 0 to 12"),
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
    ("qwen2_moe", 1, {"shared_gate": False}, "shared_gate=False must be True in this family"),
    ("qwen2_moe", 1, {"shared_gate": False, "shared_dim": 0}, "shared_dim=0 must be positive in this family with "),
    ("qwen3_moe", 0, {"bias": "qkv"}, "bias='qkv' must be 'none' in this family"),
    ("jamba_short", 1, {"renormalize": True}, "renormalize=True must be False in this family"),
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


def test_a_jamba_without_attention_is_no_jamba():
    cfg = TINY["jamba"][1]
    only = cfg.layers.pattern[:1]
    with pytest.raises(ValueError, match="layers must hold attention in this family"):
        jamba.write(cfg.replace(layers=cfg.layers.replace(pattern=only, suffix=())))


def test_a_switch_that_drops_in_evaluation_cannot_be_said():
    cfg = TINY["switch_all"][1]
    [layer] = cfg.encoder.pattern
    ffn = layer.sublayers[-1].replace(router=switch.Config(eval_capacity_factor=1.0))
    layers = cfg.encoder.replace(pattern=(layer.replace(sublayers=(*layer.sublayers[:-1], ffn)),))
    with pytest.raises(ValueError, match="eval_capacity_factor=1.0 must be 3"):
        switch_transformer.write(cfg.replace(encoder=layers))


def test_a_step_that_no_number_of_layers_tells_is_refused():
    with pytest.raises(ValueError, match="encoder has a layer of experts in 4 of 7, which no number of such layers"):
        switch_transformer.write(switch_transformer.compose(**SWITCHED, num_layers=7, step=4))
