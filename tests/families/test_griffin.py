"""Griffin's presets have the published number of parameters. tests/parity holds what it computes to transformers."""

import collections

import pytest

from arch.families import griffin
from tests.families import fit

COUNTS = {"recurrentgemma_2b": 2_682_862_080, "recurrentgemma_9b": 8_579_977_216}
"""Table 1 of the paper prints 2.7B and 8.6B."""


@pytest.mark.parametrize("name", ["recurrentgemma_2b", pytest.param("recurrentgemma_9b", marks=pytest.mark.slow)])
def test_a_preset_has_the_published_number_of_parameters(name):
    assert sum(leaf.size for leaf in fit.shapes(griffin.PRESETS[name]).values()) == COUNTS[name]


def test_every_preset_is_held_here():
    assert griffin.PRESETS.keys() == COUNTS.keys()


def test_every_third_layer_attends_and_the_last_two_do_not():
    labels = [layer.labels[0] for layer in griffin.PRESETS["recurrentgemma_2b"].layers.blocks]
    assert collections.Counter(labels) == {"rg_lru": 18, "attention": 8}
    assert all(label == "attention" for label in labels[2::3]) and labels[-2:] == ["rg_lru"] * 2


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
        griffin.compose(**dict(embed_dim=24, num_layers=3, num_heads=3) | changes)
