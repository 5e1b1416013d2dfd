"""BigBird's random blocks are, block by block and head by head, those that transformers draws."""

import numpy as np
import pytest

from arch.ops.patterns import released_blocks
from tests.ops.patterns.bigbird_peer import DRAWS, GOLDEN


def table(*, tokens, **draw):
    """The drawn blocks by head and block of queries, of a row of so many tokens."""
    return released_blocks(**draw).at(tokens, tokens).table


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * (n == "shortest")) for n in DRAWS])
def test_the_blocks_are_those_that_transformers_draws(name):
    with np.load(GOLDEN) as file:
        expected = np.sort(file[name], axis=-1)
    ours = table(**DRAWS[name])
    assert all(head[0] == head[-1] == () for head in ours)
    np.testing.assert_array_equal([head[1:-1] for head in ours], expected)


def test_a_row_that_ends_within_a_block_draws_as_a_row_of_whole_blocks():
    draw = DRAWS["shortest"]
    assert table(**draw | dict(tokens=34)) == table(**draw)


def test_too_few_blocks_to_draw_from_are_refused():
    with pytest.raises(ValueError, match="count=3 random blocks of size=256 cannot be drawn in 4096 tokens"):
        table(tokens=4096, count=3, seed=0, size=256)


def test_queries_of_another_row_are_refused():
    with pytest.raises(ValueError, match="queries=40 must be keys=80"):
        released_blocks(1, seed=0, size=4).at(40, 80)
