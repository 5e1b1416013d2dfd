"""Each preset of the decoder families has the published number of parameters, under the paths that are a contract."""

import functools
import importlib

import jax
import jax.numpy as jnp
import pytest

from arch import tree
from arch.families import mixtral
from arch.layers.weight import unbox
from arch.published import Attributes
from tests.families import fit, golden


def family_file(name):
    return importlib.import_module(f"arch.families.{name}")


ALL = [(family, name) for family, presets in golden.PRESETS.items() for name in presets]
ENDS = {(family, name) for family, presets in golden.PRESETS.items() for name in (min(presets), max(presets))}
COUNTED = [pytest.param(*preset, marks=[pytest.mark.slow] * (preset not in ENDS)) for preset in ALL]
"""All presets; two of each family in the fast tests."""
PUBLISHED = [(family, name) for family, name in ALL if family_file(family).MODEL_TYPES]


@functools.cache
def parameters(family, name):
    """The shapes of a preset's parameters, as training holds them."""
    model = family_file(family).PRESETS[name].make()
    tokens = jax.ShapeDtypeStruct((1, 2), jnp.int32)
    return unbox(jax.eval_shape(model.init, jax.random.key(0), tokens)["params"])


def unstacked(family, name):
    """The same, one entry a layer."""
    return jax.eval_shape(tree.unstack, parameters(family, name))


@pytest.mark.parametrize("family", golden.PRESETS)
def test_every_preset_of_a_family_is_held_here(family):
    assert family_file(family).PRESETS.keys() == golden.PRESETS[family].keys()


@pytest.mark.parametrize("family, name", COUNTED)
def test_a_preset_has_the_published_number_of_parameters(family, name):
    assert tree.count(parameters(family, name)) == golden.PRESETS[family][name][2]


@pytest.mark.parametrize("family, name", COUNTED)
def test_a_preset_s_paths_are_those_of_the_contract(family, name):
    kind, layers, _ = golden.PRESETS[family][name]
    assert sorted(tree.paths(unstacked(family, name))) == golden.paths(kind, layers)


@pytest.mark.parametrize("family, name", PUBLISHED)
def test_reading_what_was_written_of_a_preset_gives_it_back(family, name):
    module = family_file(family)
    preset = module.PRESETS[name]
    assert module.read(Attributes(module.write(preset))) == (fit.as_read(preset) if module is mixtral else preset)


@pytest.mark.parametrize(
    "name, active", [("mixtral_8x7b", 12_879_925_248), ("mixtral_8x22b", 39_161_468_928)]
)
def test_a_token_meets_the_published_number_of_a_mixture_s_parameters(name, active):
    idle = mixtral.PRESETS[name].idle_parameters()
    assert tree.count(parameters("mixtral", name)) - idle == active
