"""The logits of attention over blocks: what a step's products become, and which of them are hidden.

    S = cap(products scale) + bias where the map's masks and the segments show the pair, else MASKED

Forward, rows are queries and columns are the keys of w blocks; turned, as the backward pass wants them, rows are keys
and columns are the queries of u blocks. See `arch.ops.block_loops` for the rest of the equations.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from arch.ops.attention import MASKED
from arch.ops.block_layout import Layout
from arch.ops.patterns.schedule import Loop
from arch.typing import Array


class Rows(NamedTuple):
    """Numbers of the tokens, of queries and of keys: ([b t], [b s]), or of blocks ([b i bq], [b j bk]).

    Attributes:
      segments: a query sees the keys whose number is its own; None where it sees all.
      places: what the bias tells pairs by; None for the places in the row.
    """

    segments: tuple[Array, Array] | None = None
    places: tuple[Array, Array] | None = None

    def blocks(self, layout: Layout) -> "Rows":
        """Those of blocks."""
        return Rows(*(None if pair is None else _blocks(layout, pair) for pair in self))


def _blocks(layout, pair):
    pads = ((array, -array.shape[1] % size, size) for array, size in zip(pair, layout.map.block))
    return tuple(jnp.pad(array, ((0, 0), (0, pad))).reshape(len(array), -1, size) for array, pad, size in pads)


def tiles_of(layout: Layout, loop: Loop, *, turned: bool):
    """[x bq bk], or turned [x bk bq], the masks that the loop's kinds name; None where its blocks are all full."""
    if not loop.kind.any():
        return None
    ends = np.ones((1, *layout.map.block), bool)
    tiles = np.concatenate([ends, layout.map.masks, ~ends])  # the last one, -1, shows nothing
    return jnp.asarray(tiles.swapaxes(1, 2) if turned else tiles)


def logits_of(rule, products, kind, head, query_blocks, key_blocks, rows: Rows, tiles, operands, *, turned: bool):
    """The logits that c blocks' products with u blocks of queries and w of keys are, and the soft cap's slope or None.

    Args:
      rule: of the call.
      products: [b k c (g bq) (w bk)] where u is 1, or turned [b k c bk (u g bq)] where w is 1.
      kind: [c (u w)] of the blocks.
      head: [c] of the query, where heads have maps of their own.
      query_blocks: [c u] their indices in the row.
      key_blocks: [c w].
      rows: of blocks.
      tiles: see `tiles_of`.
      operands: the bias's.
      turned: see `products`.
    """
    layout, scale, soft_cap, bias = rule
    (bq, bk), (c, u), w, g = layout.map.block, query_blocks.shape, key_blocks.shape[1], layout.group
    logits, slope = products * scale, None
    if soft_cap:
        bounded = jnp.tanh(logits / soft_cap)
        logits, slope = soft_cap * bounded, 1.0 - bounded * bounded
    shape = logits.shape[:2] + ((c, bk, u, g, bq) if turned else (c, g, bq, w, bk))

    def spread(array):
        """[b k c u g bq w bk] with the axes of the logits."""
        return jnp.moveaxis(array, 7, 3)[..., 0] if turned else array[:, :, :, 0]

    logits = logits.reshape(shape)
    if bias is not None:
        logits += spread(_bias(layout, bias, head, query_blocks, key_blocks, rows.places, operands))
    if tiles is not None:
        mask = tiles[kind].swapaxes(1, 2)  # [c bq w bk], or turned [c bk u bq]
        logits = jnp.where(mask[..., None, :] if turned else mask[:, None], logits, MASKED)
    if rows.segments is not None:
        segments = rows.segments
        same = segments[0][:, query_blocks][..., None, None] == segments[1][:, key_blocks][:, :, None, None]
        logits = jnp.where(spread(same[:, None, :, :, None]), logits, MASKED)
    return logits.reshape(products.shape), slope


def _bias(layout: Layout, bias, head, query_blocks, key_blocks, places, operands):
    """[b k c u g bq w bk], with b of 1 where the places are those in the row."""
    (bq, bk), (c, u), w = layout.map.block, query_blocks.shape, key_blocks.shape[1]
    if places is None:
        sides = ((query_blocks, bq), (key_blocks, bk))
        places = (blocks[None, ..., None] * size + jnp.arange(size) for blocks, size in sides)
    else:
        places = (array[:, blocks] for array, blocks in zip(places, (query_blocks, key_blocks)))
    query, key = (array.reshape(-1, array.shape[2] * array.shape[3]) for array in places)
    values = bias(operands, query, key)
    values = jnp.broadcast_to(values, (len(query), *values.shape[1:]))
    if layout.own:
        own = jnp.tile(head, len(query) // c)
        values = jnp.take_along_axis(values, own[:, None, None, None], axis=1)
    return values.reshape(-1, c, values.shape[1] // layout.group, layout.group, u, bq, w, bk).transpose(
        0, 2, 1, 4, 3, 5, 6, 7
    )
