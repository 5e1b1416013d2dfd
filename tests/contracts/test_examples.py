"""Every file of a sublayer folder is found and offers examples that contracts can run on."""

import importlib

import pytest

from arch.layers.contract import SublayerConfig
from tests.contracts.sublayers import FFNS, MIXERS, files

FILES = [(folder, name) for folder in ("mixers", "ffns") for name in files(folder)]


@pytest.mark.parametrize(("folder", "name"), FILES, ids=lambda part: part)
def test_every_file_defines_a_config_and_examples_of_it(folder, name):
    module = importlib.import_module(f"arch.{folder}.{name}")
    assert issubclass(module.Config, SublayerConfig)
    assert module.EXAMPLES and all(type(example) is module.Config for example in module.EXAMPLES)


@pytest.mark.parametrize(("folder", "name"), FILES, ids=lambda part: part)
def test_examples_of_a_file_differ(folder, name):
    cases = importlib.import_module(f"arch.{folder}.{name}").EXAMPLES
    assert len(set(cases)) == len(cases)


def test_the_three_sublayers_that_prove_the_contract_are_among_them():
    assert {"attention_0", "mamba_0"} <= MIXERS.keys() and "moe_0" in FFNS


@pytest.mark.parametrize("cfg", (MIXERS | FFNS).values(), ids=(MIXERS | FFNS).keys())
def test_only_known_traits_are_lacked(cfg):
    assert set(cfg.lacks()) <= {"causal", "segments", "padding", "cache", "context"}
