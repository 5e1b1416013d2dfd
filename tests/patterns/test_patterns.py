"""Patterns by name are those of `arch.ops.patterns`."""

import numpy as np
import pytest

from arch import config
from arch.ops.patterns import fixed, global_tokens, prefix, window
from arch.patterns import all_of, any_of, axial, bigbird, by_head, longformer
from arch.patterns import prefix as prefixes

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


def test_heads_share_parts_evenly():
    made = by_head.Config(parts=(prefix_of(2), prefix_of(5))).make(4)
    expected = [prefix(2).dense(9, 9)[0], prefix(2).dense(9, 9)[0], prefix(5).dense(9, 9)[0], prefix(5).dense(9, 9)[0]]
    np.testing.assert_array_equal(made.dense(9, 9), expected)


def prefix_of(length):
    return prefixes.Config(length=length)


REFUSED = {
    "parts=\\(\\) must have a pattern": lambda: by_head.Config(parts=()),
    "shape=\\(65536, 65536\\) must be of less than 2147483648 tokens": lambda: axial.Config(shape=(65536, 65536)),
    "globals\\[0\\]=1267650600228229401496703205376 must be at least": lambda: longformer.Config(globals=(2**100,)),
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_cannot_work_is_refused(message):
    with pytest.raises(ValueError, match=message):
        REFUSED[message]()


def test_a_pattern_of_huge_blocks_is_no_larger_than_one_of_small_ones():
    made = bigbird.Config(block=2**31 - 1, globals=2**31 - 1).make(2)
    assert made.dense(5, 5).all()
