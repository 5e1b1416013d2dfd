"""Attention of one new token a row to the blocks of its cache that a pattern lets it see, and to no other.

    out = softmax(cap(q K_B^T scale)) V_B      B: the visible blocks of the query's row of the block map

Child et al., Sparse Transformers, 2019, arXiv 1904.10509, sec. 5.5 (a block's keys are fetched whole); pages: Kwon et
al., PagedAttention, 2023, arXiv 2309.06180, sec. 4.3. What a step reads grows with the widest row of the map, not with
the cache. The reference is a row of `arch.ops.sparse_attention.dense_attend`.
"""

import jax.numpy as jnp
import numpy as np

from arch.ops.attention import attend
from arch.ops.patterns.blocks import BlockMap
from arch.typing import Array, Bool, Float, Int


def visible(block_map: BlockMap, place: Int[Array, "b"]) -> tuple[Int[Array, "b w"], Bool[Array, "b w c"]]:
    """The blocks of keys that queries at these places see, and which of their keys; none behind the query itself.

    Args:
      block_map: of blocks of c keys, one for all heads; w is the number of blocks in its widest row.
      place: [b] the query's.

    Raises:
      ValueError: heads have maps of their own.
    """
    if block_map.heads > 1:
        raise ValueError(f"the map's heads={block_map.heads} must be 1")
    bq, bk = block_map.block
    row = place // bq
    blocks = jnp.asarray(block_map.keys[0])[row]
    kinds = np.where(np.arange(block_map.keys.shape[2]) < block_map.count[0][:, None], block_map.kind[0], -1)
    ends = np.ones((1, bq, bk), bool)
    tiles = jnp.asarray(np.concatenate([ends, block_map.masks, ~ends]))  # the last one, -1, shows nothing
    seen = tiles[jnp.asarray(kinds)[row], (place % bq)[:, None]]
    return blocks, seen & (blocks[..., None] * bk + jnp.arange(bk) <= place[:, None, None])


def decode_attend(
    query: Float[Array, "b n h"],
    key: Float[Array, "b k s h"] | Float[Array, "x k c h"],
    value: Float[Array, "b k s v"] | Float[Array, "x k c v"],
    place: Int[Array, "b"],
    block_map: BlockMap,
    *,
    table: Int[Array, "b m"] | None = None,
    sinks: Float[Array, "n"] | None = None,
    scale: float | None = None,
    soft_cap: float = 0.0,
) -> Float[Array, "b n v"]:
    """The result in query's dtype.

    Args:
      query: [b n h] of one token a row.
      key: [b k s h] a plain cache, the query's own key included; or with `table` the pages [x k c h] of
        `arch.ops.paged_cache`, of as many tokens as the map's blocks of keys.
      value: the same with v channels.
      place: [b] of the query in its row.
      block_map: which keys a query sees; those behind it are hidden in any case.
      table: [b m] the pages of each row.
      sinks: [n] a logit of each head that stands in the softmax's denominator only.
      scale: factor of the logits; None for 1 / sqrt(h).
      soft_cap: bound of the logits; 0 for none.

    Raises:
      ValueError: heads have maps of their own, a cache that is not whole blocks, or pages of another size.
    """
    size, bk = key.shape[2], block_map.block[1]
    if table is None and size % bk:
        raise ValueError(f"the cache's length={size} must be a multiple of the map's blocks of {bk} keys")
    if table is not None and size != bk:
        raise ValueError(f"pages of {size} tokens must be as long as the map's blocks of {bk} keys")
    blocks, seen = visible(block_map, place)

    def gathered(cache):
        """[b w bk k h]."""
        if table is not None:
            pages = jnp.take_along_axis(table, blocks, axis=1, mode="clip")
            return cache.at[pages].get(mode="clip").swapaxes(2, 3)
        parts = cache.reshape(*cache.shape[:2], -1, bk, cache.shape[-1])
        return parts[jnp.arange(len(parts))[:, None], :, blocks].swapaxes(2, 3)

    keys, values = (array.reshape(len(query), -1, *array.shape[3:]) for array in map(gathered, (key, value)))
    mask = seen.reshape(len(query), 1, -1)
    given = dict(sinks=sinks, scale=scale, soft_cap=soft_cap)
    return attend(query[:, None], keys, values, mask=mask, **given)[:, 0]
