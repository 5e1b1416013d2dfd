"""The rows of a pattern's mask for queries whose places are known on the device only: those of a step of decoding.

A query's row is put together from its block's list of key blocks, so that a token costs what its row is long, and the
table that the device holds is the block map's, as large as the blocks that are not empty: never all pairs.
"""

import jax.numpy as jnp
import numpy as np

from arch.ops.patterns.blocks import BlockMap
from arch.typing import Array, Bool, Int


def mask_rows(block_map: BlockMap, place: Int[Array, "b t"]) -> Bool[Array, "b n t s"]:
    """[b n t s] True where the query at a place sees a key; n is 1 where all heads see the same.

    Args:
      block_map: of the pattern.
      place: [b t] of each query in the row; one outside the map gets the row of the nearest inside.
    """
    (bq, bk), lists, columns = block_map.block, block_map.lists, -(-block_map.key_length // block_map.block[1])
    (b, t), n = place.shape, lists.heads
    if not len(lists.blocks):
        return jnp.zeros((b, n, t, block_map.key_length), bool)
    place = jnp.clip(place, 0, block_map.query_length - 1)
    starts = jnp.asarray(lists.starts[:-1].reshape(n, -1), jnp.int32)[:, place // bq]  # [n b t]
    number = jnp.arange(int(lists.count.max()))
    entry = starts[..., None] + number
    there = number < jnp.asarray(lists.count)[:, place // bq][..., None]
    blocks = jnp.where(there, jnp.asarray(lists.blocks)[entry], columns)  # `columns` is outside: dropped
    tiles = jnp.asarray(np.concatenate([np.ones((1, bq, bk), bool), block_map.masks]))
    lines = tiles[jnp.asarray(lists.kind)[entry], (place % bq)[..., None]]  # [n b t w bk]
    row = tuple(jnp.arange(size).reshape(shape) for size, shape in ((n, (n, 1, 1, 1)), (b, (b, 1, 1)), (t, (t, 1))))
    mask = jnp.zeros((n, b, t, columns, bk), bool).at[*row, blocks].set(lines, mode="drop")
    return jnp.moveaxis(mask.reshape(n, b, t, -1)[..., : block_map.key_length], 0, 1)
