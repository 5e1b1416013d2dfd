"""A cache in pages holds what a plain one holds, whatever rows come and go, and gives pages back."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arch.ops import paged_cache
from arch.ops.cache import slots, write

B, T, K, H, PAGE, MOST = 3, 5, 2, 4, 3, 6
RNG = np.random.default_rng(0)
append = jax.jit(paged_cache.append)
release = jax.jit(paged_cache.release)


def empty(pages=B * MOST):
    return paged_cache.init(B, pages, PAGE, row_pages=MOST, kv_heads=K, head_dim=H, dtype=jnp.float32)


def tokens():
    return jnp.asarray(RNG.standard_normal((B, T, K, H)), jnp.float32)


def held(cache):
    """The pages that rows hold."""
    table = np.asarray(cache.table)
    return table[table < len(cache.keys)]


def test_rows_that_grow_and_go_are_those_of_a_plain_cache():
    cache = empty()
    plain = [jnp.zeros((B, K, MOST * PAGE, H))] * 2
    length = jnp.zeros(B, jnp.int32)
    for turn in range(9):
        valid, gone = jnp.asarray(RNG.random((B, T)) < 0.6), jnp.arange(B) == turn % 4
        key, value = tokens(), tokens()
        place, length = slots(length, valid, MOST * PAGE)
        plain = [write(array, place, new) for array, new in zip(plain, (key, value))]
        cache = append(cache, key, value, valid)
        here = jnp.arange(MOST * PAGE) < length[:, None]
        for mine, theirs in zip(paged_cache.rows(cache), plain):
            mine, theirs = (jnp.where(here[:, None, :, None], array, 0) for array in (mine, theirs))
            np.testing.assert_array_equal(mine, theirs)
        cache, length = release(cache, gone), jnp.where(gone, 0, length)
        np.testing.assert_array_equal(cache.length, length)


def test_each_page_is_held_once_or_free():
    cache = empty()
    for turn in range(6):
        cache = append(cache, tokens(), tokens(), jnp.asarray(RNG.random((B, T)) < 0.5))
        pages = [*held(cache), *np.asarray(cache.free)[: int(cache.left)]]
        assert sorted(pages) == list(range(B * MOST))
        cache = release(cache, jnp.arange(B) == turn % B)


def test_a_row_holds_as_many_pages_as_its_tokens_need():
    cache = append(empty(), tokens(), tokens(), jnp.asarray([[True] * T, [True] + [False] * 4, [False] * T]))
    np.testing.assert_array_equal((np.asarray(cache.table) < B * MOST).sum(axis=1), [2, 1, 0])
    np.testing.assert_array_equal(paged_cache.lacking(cache, jnp.asarray([1, 3, 4])), [0, 1, 2])


def test_pages_that_are_not_there_are_counted_and_nobody_elses_are_touched():
    first = append(empty(pages=2), tokens(), tokens(), jnp.arange(B)[:, None] + jnp.zeros((B, T)) == 0)
    after = append(first, tokens(), tokens(), jnp.arange(B)[:, None] + jnp.zeros((B, T)) == 1)
    assert int(first.left) == 0 and int(after.left) == -2
    np.testing.assert_array_equal(paged_cache.rows(after)[0][0], paged_cache.rows(first)[0][0])


def test_a_cache_without_pages_is_refused():
    with pytest.raises(ValueError, match="batch=3, pages=0, page=3 and row_pages=6 must be at least 1"):
        empty(pages=0)
