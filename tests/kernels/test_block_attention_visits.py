"""The lists of visits hold each non-empty block of a map once, in the order of its rows, and little else."""

import inspect

import numpy as np
import pytest

from arch.kernels.block_attention import visits as visiting
from arch.kernels.block_attention.visits import FIRST, LAST, PARTIAL, VISIBLE, visits
from arch.ops.patterns import block_list, block_map, causal, global_tokens, random_blocks, window

PER_HEAD = causal & (window(5) | random_blocks(1, seed=2, size=4, draws=6))


def unpacked(found):
    """row, column, mask, member and flags, each [n s]."""
    return found.place >> 16, found.place & 0xFFFF, found.flags >> 12, found.flags >> 4 & 0xFF, found.flags & 15


def dense(found, masks, heads, group):
    """[n rows columns bq bk] the mask that the visits show, each block at most once."""
    row, column, mask, member, flags = unpacked(found)
    size = heads, row.max() + 1, column.max() + 1
    seen = np.zeros((*size, *masks.shape[1:]), bool)
    times = np.zeros(size, int)
    for lane, step in np.argwhere(flags & VISIBLE):
        place = lane * group + member[lane, step], row[lane, step], column[lane, step]
        seen[place] = masks[mask[lane, step]] if flags[lane, step] & PARTIAL else True
        times[place] += 1
    assert times.max() == 1
    return seen


def expected(map_):
    """The same from the map's dense mask, whose lengths are whole blocks."""
    n, t, s = map_.dense().shape
    bq, bk = map_.block
    return map_.dense().reshape(n, t // bq, bq, s // bk, bk).swapaxes(2, 3)


def test_by_rows_they_are_the_map():
    map_ = block_map(PER_HEAD, 24, 24, block=(4, 4))
    np.testing.assert_array_equal(dense(visits(map_.lists), map_.masks, 6, 1), expected(map_))


def test_by_keys_the_heads_of_a_group_share_a_row():
    map_ = block_map(PER_HEAD, 24, 24, block=(4, 4))
    found = visits(map_.transposed().lists, group=3)
    assert len(found.place) == 2
    np.testing.assert_array_equal(dense(found, map_.masks, 6, 3), expected(map_).swapaxes(1, 2))
    for row, flags in zip(unpacked(found)[0], unpacked(found)[4]):
        np.testing.assert_array_equal(row[flags & FIRST > 0], np.arange(6))
        np.testing.assert_array_equal(row[flags & LAST > 0], np.arange(6))
        assert np.all(np.diff(row) >= 0)


def test_a_row_that_sees_nothing_has_one_visit_that_fetches_nothing_new():
    found = visits(block_map(block_list(4, ((0,), (), (0, 1), ())), 16, 16, block=(4, 4)).lists)
    row, column, _, _, flags = (array[0] for array in unpacked(found))
    np.testing.assert_array_equal(row, [0, 1, 2, 2, 3])
    np.testing.assert_array_equal(column, [0, 0, 0, 1, 1])
    np.testing.assert_array_equal(flags & VISIBLE, [1, 0, 1, 1, 0])
    np.testing.assert_array_equal(found.begin, [[0, 1, 2, 4, 5]])
    np.testing.assert_array_equal(found.partial, [[1, 1, 4, 4]])
    np.testing.assert_array_equal(found.order, [[2, 0, 1, 3]])


def test_a_full_block_names_the_mask_of_the_partial_one_before():
    found = visits(block_map(causal & window(9), 24, 24, block=(4, 4)).lists)
    mask, flags = unpacked(found)[2][0], unpacked(found)[4][0]
    full = np.flatnonzero(flags & PARTIAL == 0)
    assert 0 < len(full)
    np.testing.assert_array_equal(mask[full[full > 0]], mask[full[full > 0] - 1])
    np.testing.assert_array_equal(flags[found.partial[0][found.partial[0] < found.begin[0, 1:]]] & PARTIAL, PARTIAL)


def test_they_are_as_many_as_the_blocks_though_one_row_is_as_wide_as_the_map():
    map_ = block_map(window(64) | global_tokens(0), 1 << 15, 1 << 15, block=(128, 128))
    found = visits(map_.lists)
    assert found.place.shape == found.flags.shape == (1, len(map_.lists.blocks))
    assert found.count == len(map_.lists.blocks) < 5 * 256


def test_more_masks_than_the_flags_hold_are_refused(monkeypatch):
    map_ = block_map(causal & window(5), 24, 24, block=(4, 4))
    monkeypatch.setattr(visiting, "MOST_MASKS", 1)
    with pytest.raises(ValueError, match="2 masks are more than the kernels' 1"):
        inspect.unwrap(visits)(map_.lists)
