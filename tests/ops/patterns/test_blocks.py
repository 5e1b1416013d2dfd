"""A pattern's block map shows exactly the pairs that its predicate shows, whatever the pattern, lengths and blocks."""

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arch.ops.patterns import (
    axial,
    block_diagonal,
    block_list,
    block_local,
    block_map,
    by_head,
    causal,
    ends,
    fixed,
    full,
    global_tokens,
    prefix,
    random_blocks,
    segments,
    strided,
    window,
)
from arch.ops.patterns.predicates import Ends

size = st.integers(1, 9)
length = st.integers(1, 23)
few = st.integers(0, 2)
places = st.lists(st.integers(0, 25), max_size=4)


def made(build, *draws):
    """A pattern yet to be built: checking its fields draws numbers of its own, which a strategy must not."""
    return st.builds(lambda *values: lambda: build(*values), *draws)


leaves = st.one_of(
    *(made(lambda pattern=pattern: pattern) for pattern in (full, causal, axial(3, 5), axial(2, 3, 4))),
    made(lambda: block_list(3, ((0, 2), (), (1, 2, 3)))),
    made(lambda size, dilation: window(size, dilation=dilation), size, st.integers(1, 4)),
    made(prefix, st.integers(0, 20)),
    made(lambda places: global_tokens(*places), places),
    made(Ends, st.integers(0, 9), st.integers(0, 25)),
    made(lambda size: by_head(window(size), strided(size)), size),
    made(block_diagonal, size),
    made(lambda size, before, after: block_local(size, before=before, after=after), size, few, few),
    made(strided, size),
    made(lambda size, last: fixed(size, summaries=min(size, last)), size, size),
    made(lambda places: segments(*sorted(set(places))), places),
    made(lambda count, seed, size: random_blocks(count, seed, size=size, draws=2), size, size, size),
    made(lambda seed, size: random_blocks(2, seed, size=size, outside=window(3), causal=True), size, size),
)
composed = lambda inner: made(lambda a, b, both: a() & b() if both else a() | b(), inner, inner, st.booleans())
patterns = st.recursive(leaves, composed, max_leaves=4)
blocks = st.tuples(st.integers(1, 8), st.integers(1, 8))


@settings(max_examples=150, deadline=None)
@given(patterns, length, length, blocks)
def test_the_map_is_the_predicate(pattern, queries, keys, block):
    pattern = pattern()
    made = block_map(pattern, queries, keys, block=block)
    expected = pattern.dense(queries, keys)
    np.testing.assert_array_equal(made.dense(), expected)
    assert made.visible_pairs == expected.sum()
    tiles = np.pad(expected, [(0, 0), (0, -queries % block[0]), (0, -keys % block[1])])
    tiles = tiles.reshape(len(expected), -(-queries // block[0]), block[0], -1, block[1]).any(axis=(2, 4))
    assert made.visited_pairs == tiles.sum() * block[0] * block[1]
    np.testing.assert_array_equal(made.count, tiles.sum(axis=2))


@settings(max_examples=40, deadline=None)
@given(patterns, length, length, blocks)
def test_the_transposed_map_shows_the_same_blocks(pattern, queries, keys, block):
    made = block_map(pattern(), queries, keys, block=block)
    columns = made.transposed()
    rows = {
        (n, i, made.keys[n, i, w], made.kind[n, i, w])
        for n, i in np.ndindex(*made.count.shape)
        for w in range(made.count[n, i])
    }
    turned = [
        (n, columns.queries[n, j, w], j, columns.kind[n, j, w])
        for n, j in np.ndindex(*columns.count.shape)
        for w in range(columns.count[n, j])
    ]
    assert len(turned) == len(set(turned)) and set(turned) == rows


def test_behind_the_last_block_of_a_row_it_is_repeated():
    made = block_map(causal, 9, 9, block=(3, 3))
    np.testing.assert_array_equal(made.keys[0], [[0, 0, 0], [0, 1, 1], [0, 1, 2]])


def test_each_different_mask_stands_once():
    masks = block_map(causal & window(9), 64, 64, block=(4, 4)).masks
    np.testing.assert_array_equal(masks, [np.tri(4), np.tri(4).T])


LONG = 131072
BIGBIRD = window(96) | global_tokens(*range(64), *range(-64, 0))
BIGBIRD = BIGBIRD | random_blocks(3, 0, outside=BIGBIRD)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("pattern", "masks"),
    [(causal & window(512), 2), (window(257) | global_tokens(0), 10), (BIGBIRD, 30)],
    ids=["window", "longformer", "bigbird"],
)
def test_a_row_of_131072_tokens_costs_what_its_visible_blocks_cost(pattern, masks):
    start = time.process_time()
    made = block_map(pattern, LONG, LONG, block=(128, 128))
    assert time.process_time() - start < 20
    assert len(made.lists.blocks) < 14 * LONG / 128
    assert len(made.masks) <= masks


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 9), st.integers(1, 25), length, st.integers(1, 8))
def test_the_ends_of_a_row_see_all_and_are_seen_by_all(first, last, length, block):
    made = block_map(ends(first, last), length, length, block=(block, block))
    at_end = (np.arange(length) < first) | (np.arange(length) >= length - last)
    np.testing.assert_array_equal(made.dense()[0], at_end[:, None] | at_end)


def test_an_end_that_is_counted_from_the_row_s_needs_one_row():
    with pytest.raises(ValueError, match="high=-2 must be at least 0 where queries=5 are not keys=7"):
        ends(1, 2).at(5, 7)


def test_heads_of_a_part_are_those_of_all_or_one():
    with pytest.raises(ValueError, match="heads=2 of a part must be 1 or those of all, 3"):
        by_head(random_blocks(1, 0, draws=2), full, full)


def test_sizes_below_one_are_refused():
    with pytest.raises(ValueError, match=r"block=\(0, 4\) must be at least 1"):
        block_map(full, 4, 4, block=(0, 4))
