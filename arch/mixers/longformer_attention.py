"""Longformer's attention: a window around each token, and a few global tokens that see all and are seen by all.

    o_i = softmax(q_i k_j / sqrt(h)) v_j       over |i - j| <= window / 2 (times a dilation), and over all global j
    o_i = softmax(q'_i k'_j / sqrt(h)) v'_j    over all j, where i is global; q', k' and v' have weights of their own

Beltagy, Peters, Cohan, Longformer: The Long-Document Transformer, 2020, arXiv 2004.05150, sec. 3.1. Which tokens are
global is known at run time only. Their keys are left out of the windows and gathered instead, for everyone to meet; the
two parts merge by their logsumexp. Time and memory grow with the row's length times window and global tokens.
"""

from functools import partial

import flax.linen as nn
import jax.numpy as jnp

from arch import config
from arch.layers.contract import Context, Output, SublayerConfig
from arch.layers.flops import Flops, Row, multiply_adds
from arch.mixers._attend import Block, attend_blocks, map_of, of_pairs
from arch.mixers._heads import from_heads, to_heads
from arch.ops import patterns
from arch.ops.sparse_attention import merge
from arch.positions import none, rope
from arch.sharding.per_shard import per_shard
from arch.typing import Array, Bool, Float, Int


@config.frozen
class Config(SublayerConfig):
    """Longformer's attention.

    Attributes:
      num_heads: heads.
      head_dim: channels a head.
      window: tokens, half of them before a token and half behind; even.
      dilations: places from one token of the window to the next, a number for each equal share of the heads.
      max_globals: global tokens that a row may have, all its documents together; one that has more is NaN.
      globals: positions of the tokens that are global where the context does not choose any.
      position: the position scheme, one that acts on heads.
      bias: learned shifts of all projections.
      block: tokens of a block of the pattern; 0 for what suits the device.
    """

    num_heads: config.PositiveInt
    head_dim: config.PositiveInt
    window: config.PositiveInt = 512
    dilations: tuple[config.PositiveInt, ...] = (1,)
    max_globals: config.PositiveInt = 64
    globals: tuple[config.SizeOrZero, ...] = ()
    position: config.choice("positions") = none.Config()
    bias: bool = False
    block: Block = 0

    def check(self):
        if self.window % 2:
            raise ValueError(f"window={self.window} must be even: half of it before a token, half behind")
        if not self.dilations or self.num_heads % len(self.dilations):
            rule = f"must be as many as share num_heads={self.num_heads} evenly"
            raise ValueError(f"dilations={self.dilations} {rule}")
        self.position.must_act("heads")

    def make(self, name: str | None = None) -> "LongformerAttention":
        """The Linen module."""
        return LongformerAttention(self, name=name)

    def maps(self, length: int) -> tuple[patterns.BlockMap, patterns.BlockMap, patterns.BlockMap]:
        """Blocks of the windows, of all tokens' way to the global ones, and of the global ones' way to all."""
        windows = [patterns.window(self.window // 2 + 1, dilation=dilation) for dilation in self.dilations]
        near = patterns.by_head(*windows, each=self.num_heads // len(windows)) if len(windows) > 1 else windows[0]
        few = self.max_globals
        sizes = (near, length, length), (patterns.full, length, few), (patterns.full, few, length)
        return tuple(map_of(*size, self.block) for size in sizes)

    def flops(self, row: Row) -> Flops:
        """Projections for local and for global use, and two products for each pair, as if all global tokens were used.

        Executed: of the pairs that are met.
        """
        maps, channels = self.maps(row.length), self.num_heads * self.head_dim
        own = (6 * row.length + self.max_globals) * row.embed_dim * channels
        seen, met = (
            2 * channels * sum(getattr(blocks, kind) // blocks.heads for blocks in maps)
            for kind in ("visible_pairs", "visited_pairs")
        )
        return multiply_adds(own) + of_pairs(seen, met)

    def lacks(self) -> tuple[str, ...]:
        """It looks ahead, and so decodes nothing."""
        return "causal", "cache", "context"


class LongformerAttention(nn.Module):
    """Self-attention over x; `context.globals` chooses the global tokens."""

    cfg: Config

    @nn.compact
    def __call__(self, x: Float[Array, "b t d"], context: Context, cache: None = None) -> Output:
        cfg, real = self.cfg, context.real()

        def project(name, x, positions):
            heads = to_heads(self, name, x, cfg.num_heads, cfg.head_dim, bias=cfg.bias)
            return heads if name.startswith("value") else cfg.position.rotate(heads, positions)

        chosen = context.globals
        if chosen is None:
            chosen = jnp.isin(context.positions, jnp.array(cfg.globals, jnp.int32))
        chosen = chosen & real
        place = first_places(chosen, cfg.max_globals)
        local = tuple(project(name, x, context.positions) for name in ("query", "key", "value"))
        few, positions = (gathered(array, place) for array in (x, context.positions))
        whole = project("query_global", few, positions), *(
            project(name, x, context.positions) for name in ("key_global", "value_global")
        )
        attend = partial(attend_with_globals, maps=cfg.maps(x.shape[1]))
        segments = jnp.zeros(real.shape, jnp.int32) if context.segment_ids is None else context.segment_ids
        arguments = (*local, *whole, place, chosen, segments, real)
        heads, row = ("batch", None, None, None), ("batch", None)
        out = per_shard(attend, arguments, (heads,) * 6 + (row,) * 4, heads, reduce="head_dim")
        too_many = jnp.sum(chosen, axis=1) > cfg.max_globals
        out = jnp.where(too_many[:, None, None, None], jnp.nan, out)
        return Output(from_heads(self, out, x.shape[-1], bias=cfg.bias))


def first_places(chosen: Bool[Array, "b t"], most: int) -> Int[Array, "b c"]:
    """[b most] the places of each row's first so many chosen tokens, ascending, and t behind them."""
    b, t = chosen.shape
    number = jnp.where(chosen, jnp.cumsum(chosen, axis=1) - 1, most)
    places = jnp.broadcast_to(jnp.arange(t), (b, t))
    return jnp.full((b, most), t).at[jnp.arange(b)[:, None], number].set(places, mode="drop")


def gathered(array: Array, place: Int[Array, "b c"]) -> Array:
    """[b c ...] an array's entries at these places; what is behind the end gives the last one's."""
    return array[jnp.arange(len(array))[:, None], jnp.minimum(place, array.shape[1] - 1)]


def attend_with_globals(
    query: Float[Array, "b t n h"],
    key: Float[Array, "b t n h"],
    value: Float[Array, "b t n h"],
    query_global: Float[Array, "b c n h"],
    key_global: Float[Array, "b t n h"],
    value_global: Float[Array, "b t n h"],
    place: Int[Array, "b c"],
    chosen: Bool[Array, "b t"],
    segments: Int[Array, "b t"],
    real: Bool[Array, "b t"],
    *,
    maps: tuple[patterns.BlockMap, patterns.BlockMap, patterns.BlockMap],
) -> Float[Array, "b t n h"]:
    """The equations of this file.

    Args:
      query: [b t n h] of tokens that are not global, as are key and value: what everybody else reads of all tokens.
      key: [b t n h].
      value: [b t n h].
      query_global: [b c n h] of the global tokens.
      key_global: [b t n h] what they read.
      value_global: [b t n h].
      place: [b c] of the global tokens in the row; t where there are fewer.
      chosen: [b t] which tokens are global.
      segments: [b t] documents; a token sees its own one only.
      real: [b t] False for tokens that nobody sees.
      maps: see `Config.maps`.
    """
    near, to_few, from_few = maps
    of_few = gathered(segments, place)
    windows = attend_blocks(query, key, value, near, segments=(segments, segments), valid=real & ~chosen)
    keys, values = gathered(key, place), gathered(value, place)
    used = place < query.shape[1]
    few = attend_blocks(query, keys, values, to_few, segments=(segments, of_few), valid=used)
    out, _ = merge([windows, few])
    all_ = attend_blocks(query_global, key_global, value_global, from_few, segments=(of_few, segments), valid=real)
    return out.at[jnp.arange(len(out))[:, None], place].set(all_[0], mode="drop")


EXAMPLES = (
    Config(
        num_heads=4,
        head_dim=4,
        window=4,
        dilations=(1, 2),
        max_globals=5,
        globals=(0, 4),
        position=rope.Config(theta=9.0),
        bias=True,
    ),
)
