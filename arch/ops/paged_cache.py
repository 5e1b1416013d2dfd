"""A key-value cache in pages: rows of any length share one store, and each holds the pages that its tokens need.

    token i of row b lies in page table[b, i // p], at place i % p

Kwon et al., Efficient Memory Management for Large Language Model Serving with PagedAttention, 2023, arXiv 2309.06180,
sec. 4. Pages that no row holds stand on a stack, so that taking them and giving them back are part of a compiled step.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp

from arch.typing import Array, Bool, Float, Int, Num


class PagedCache(NamedTuple):
    """The store and who holds what.

    Attributes:
      keys: [x k p h] the pages' keys; heads before tokens, as in `arch.ops.cache`.
      values: [x k p v].
      table: int32 [b m] the pages of each row, in the order of its tokens; x where it has none.
      length: int32 [b] tokens that each row holds.
      free: int32 [x] a stack of pages; its first `left` are held by no row.
      left: int32 [] below 0 where so many pages were wanted and not there: their tokens are lost.
    """

    keys: Num[Array, "x k p h"]
    values: Num[Array, "x k p v"]
    table: Int[Array, "b m"]
    length: Int[Array, "b"]
    free: Int[Array, "x"]
    left: Int[Array, ""]


def init(
    batch: int, pages: int, page: int, *, row_pages: int, kv_heads: int, head_dim: int, dtype: Any
) -> PagedCache:
    """An empty cache.

    Args:
      batch: rows.
      pages: of all rows together.
      page: tokens of a page.
      row_pages: that a row can hold at most.
      kv_heads: key-value heads.
      head_dim: channels of keys and values.
      dtype: of both.

    Raises:
      ValueError: a size below 1.
    """
    if min(batch, pages, page, row_pages) < 1:
        raise ValueError(f"{batch=}, {pages=}, {page=} and {row_pages=} must be at least 1")
    store = jnp.zeros((pages, kv_heads, page, head_dim), dtype)
    table = jnp.full((batch, row_pages), pages, jnp.int32)
    return PagedCache(
        store, store, table, jnp.zeros(batch, jnp.int32), jnp.arange(pages, dtype=jnp.int32), jnp.int32(pages)
    )


def append(
    cache: PagedCache, key: Float[Array, "b t k h"], value: Float[Array, "b t k v"], valid: Bool[Array, "b t"]
) -> PagedCache:
    """The cache with each row's valid tokens behind those it holds; what a row cannot hold is dropped.

    Args:
      cache: with at least `lacking(cache, count of valid tokens)` pages left.
      key: [b t k h].
      value: [b t k v].
      valid: [b t].
    """
    pages, page = cache.keys.shape[0], cache.keys.shape[2]
    length = cache.length + jnp.sum(valid, axis=1, dtype=jnp.int32)
    held, more = -(-cache.length // page), lacking(cache, length - cache.length)
    begin = jnp.cumsum(more) - more
    column = jnp.arange(cache.table.shape[1]) - held[:, None]
    new = (column >= 0) & (column < more[:, None])
    depth = cache.left - 1 - begin[:, None] - column
    taken = jnp.where(depth >= 0, cache.free[jnp.maximum(depth, 0)], pages)
    table = jnp.where(new, taken, cache.table)
    place = cache.length[:, None] + jnp.cumsum(valid, axis=1, dtype=jnp.int32) - 1
    at = jnp.take_along_axis(table, place // page, axis=1, mode="fill", fill_value=pages)
    at = jnp.where(valid, at, pages)
    write = lambda store, tokens: store.at[at, :, place % page].set(tokens.astype(store.dtype), mode="drop")
    most = cache.table.shape[1] * page
    return PagedCache(
        write(cache.keys, key),
        write(cache.values, value),
        table,
        jnp.minimum(length, most),
        cache.free,
        cache.left - jnp.sum(more),
    )


def lacking(cache: PagedCache, tokens: Int[Array, "b"]) -> Int[Array, "b"]:
    """How many pages each row needs beside its own to hold so many more tokens."""
    page, most = cache.keys.shape[2], cache.table.shape[1]
    return jnp.minimum(-(-(cache.length + tokens) // page), most) - -(-cache.length // page)


def release(cache: PagedCache, rows: Bool[Array, "b"]) -> PagedCache:
    """The cache without what these rows held; their pages are free again."""
    pages = cache.keys.shape[0]
    given = rows[:, None] & (cache.table < pages)
    place = jnp.cumsum(given.reshape(-1)).reshape(given.shape) - 1 + jnp.maximum(cache.left, 0)
    free = cache.free.at[jnp.where(given, place, pages)].set(cache.table, mode="drop")
    return cache._replace(
        table=jnp.where(rows[:, None], pages, cache.table),
        length=jnp.where(rows, 0, cache.length),
        free=free,
        left=jnp.maximum(cache.left, 0) + jnp.sum(given, dtype=jnp.int32),
    )


def rows(cache: PagedCache) -> tuple[Num[Array, "b k s h"], Num[Array, "b k s v"]]:
    """Keys and values of each row as a plain cache has them, zeros where there are none."""

    def gathered(store):
        found = store.at[cache.table].get(mode="fill", fill_value=0)  # [b m k p h]
        found = jnp.moveaxis(found, 1, 2)
        return found.reshape(*found.shape[:2], -1, found.shape[-1])

    return gathered(cache.keys), gathered(cache.values)
