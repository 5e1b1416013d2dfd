"""A preset of a mixture is trained with the published losses of its router; what is read of a checkpoint has none."""

import pytest

from arch.families import deepseek, glam, gshard, jamba, mixtral, qwen_moe, switch_transformer
from arch.published import Attributes
from arch.train.mixtures import mixtures
from tests.families.published_configs import PUBLISHED as PLAIN
from tests.families.published_mixtures import PUBLISHED

FAMILIES = (deepseek, glam, gshard, jamba, mixtral, qwen_moe, switch_transformer)
PRESETS = {name: preset for family in FAMILIES for name, preset in family.PRESETS.items()}

SWITCH = (0.01, 0.0, "row")  # Fedus et al., 2021, arXiv 2101.03961, sec. 2.2: alpha = 10^-2; the z-loss is ST-MoE's
GSHARD = (0.01, 0.0, "row")  # the released code's `aux_loss_coef`; the paper (arXiv 2006.16668) prints k alone
WEIGHTS = {
    **dict.fromkeys(switch_transformer.PRESETS, SWITCH),
    **dict.fromkeys(gshard.PRESETS, GSHARD),
    # Du et al., GLaM, 2021, arXiv 2112.06905, sec. 5.1
    "glam_8b_64e": (0.01, 0.0, "row"),
    "glam_64b_64e": (0.01, 0.0, "row"),
    # Zhou et al., Expert Choice, 2022, arXiv 2202.09368: balanced as it is
    "expert_choice_8b_64e": (0.0, 0.0, "row"),
    # `router_aux_loss_coef` of the released config.json
    "mixtral_8x7b": (0.02, 0.0, "row"),
    "mixtral_8x22b": (0.001, 0.0, "row"),
    "jamba_v0_1": (0.001, 0.0, "row"),
    "jamba_1_5_large": (0.001, 0.0, "row"),
    "qwen1_5_moe_a2_7b": (0.001, 0.0, "row"),
    "qwen2_57b_a14b": (0.001, 0.0, "row"),
    # the same, over the global batch: Qwen3 Technical Report, 2025, arXiv 2505.09388, sec. 2
    "qwen3_30b_a3b": (0.001, 0.0, "batch"),
    "qwen3_235b_a22b": (0.001, 0.0, "batch"),
    # DeepSeek-V2, 2024, arXiv 2405.04434, app. B and sec. 3.1.2 (alpha_1); V3, arXiv 2412.19437, sec. 4.2 (alpha)
    "deepseek_v2_lite": (0.001, 0.0, "row"),
    "deepseek_v2": (0.003, 0.0, "row"),
    "deepseek_v3": (0.0001, 0.0, "row"),
}
"""Weight of the f.P loss, of the z-loss, and over what the load is balanced."""


def test_every_preset_of_a_mixture_is_here():
    assert WEIGHTS.keys() == PRESETS.keys()


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_has_the_published_losses(name):
    for place, layer in mixtures(PRESETS[name]):
        assert (layer.balance_weight, layer.z_weight, layer.balance_over) == WEIGHTS[name], place.log
        assert layer.balance_loss == "f_dot_p"
        assert layer.bias_rate == (0.001 if name == "deepseek_v3" else 0.0)  # V3, sec. 4.2: gamma


SAID = {
    "deepseek_v2_lite": "aux_loss_alpha",
    "qwen1_5_moe_a2_7b": "router_aux_loss_coef",
    "qwen3_30b_a3b": "router_aux_loss_coef",
    "jamba_v0_1": "router_aux_loss_coef",
}


@pytest.mark.parametrize("name", SAID)
def test_a_released_config_says_the_same_weight(name):
    assert PUBLISHED[name][SAID[name]] == WEIGHTS[name][0]


def test_mixtral_s_released_config_says_the_same_weight():
    preset, attributes = PLAIN["Mixtral-8x7B-v0.1"]
    assert attributes["router_aux_loss_coef"] == WEIGHTS[preset][0]


@pytest.mark.parametrize("name", ["mixtral_8x7b", "deepseek_v2_lite", "qwen3_30b_a3b", "jamba_v0_1"])
def test_what_is_read_of_a_checkpoint_has_no_loss_of_the_router_s(name):
    family = next(family for family in FAMILIES if name in family.PRESETS)
    attributes = PLAIN["Mixtral-8x7B-v0.1"][1] if family is mixtral else PUBLISHED[name]
    for _, layer in mixtures(family.read(Attributes(attributes))):
        assert (layer.balance_weight, layer.z_weight) == (0.0, 0.0)
