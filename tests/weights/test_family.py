"""Which of the published families writes a model."""

import pytest

from arch.weights import family
from tests.families.tiny import TINY

FORMS = {
    "llama": "llama",
    "llama_llama3": "llama",
    "mistral": "mistral",
    "mistral_full": "llama",
    "mixtral": "mixtral",
    "gpt": "gpt",
    "gpt_neox": "gpt_neox",
    "falcon_7b": "falcon",
    "falcon_40b": "falcon",
    "bloom": "bloom",
    "mamba": "mamba_lm",
    "falcon_mamba": "mamba_lm",
    "mamba2": "mamba2_lm",
    "rwkv": "rwkv",
}
"""The family that writes a tiny model when none is named: Mistral's layers without a window are LLaMA's."""


@pytest.mark.parametrize("name", FORMS)
def test_an_export_without_a_family_takes_the_plainest_that_expresses_the_model(name):
    module, attributes = family.writing(TINY[name][1])
    assert module is family.modules()[FORMS[name]]
    assert attributes["model_type"] in module.MODEL_TYPES


def test_a_family_that_is_named_writes_what_a_plainer_one_could():
    assert family.writing(TINY["llama"][1], "mistral")[1]["model_type"] == "mistral"


def test_a_family_specialises_one_that_there_is():
    named = {module.SPECIALISES for module in family.modules().values() if hasattr(module, "SPECIALISES")}
    assert named and named <= family.modules().keys()
