"""Patterns by name are those of `arch.ops.patterns`."""

import numpy as np
import pytest

from arch import config
from arch.ops.patterns import fixed, global_tokens, prefix, window
from arch.patterns import all_of, any_of, longformer

PARTS = {"name": "longformer", "window": 6, "globals": (1,)}, {"name": "fixed", "stride": 5}
PATTERN = {"parts": ({"name": "prefix", "length": 4}, {"name": "any_of", "parts": PARTS})}


def test_a_composition_is_written_as_data():
    cfg = config.from_dict(all_of.Config, PATTERN)
    expected = prefix(4) & (window(4) | global_tokens(1) | fixed(5))
    np.testing.assert_array_equal(cfg.make(2).dense(9, 9), expected.dense(9, 9))
    assert config.from_dict(all_of.Config, config.to_dict(cfg)) == cfg


def test_a_composition_of_nothing_is_refused():
    with pytest.raises(ValueError, match=r"parts=\(\) must have a pattern"):
        any_of.Config(parts=())


def test_an_odd_window_of_longformer_is_refused():
    with pytest.raises(ValueError, match="window=7 must be even"):
        longformer.Config(window=7)
