"""BigBird's attention: a block sees its neighbours, the first and the last block of the row, and a few random ones.

    o_i = softmax(q_i k_j / sqrt(h)) v_j    over all j in the blocks next to i's, in the row's first and last block, and
                                            in blocks drawn for i's block and this head; over all j from the row's ends

Zaheer et al., Big Bird: Transformers for Longer Sequences, 2020, arXiv 2007.14062, sec. 2 and app. D ("ITC"). The
random blocks are those of the released code (`arch.ops.patterns.released`) and, as there, a part of their own: one that
is seen anyway counts twice. The two parts merge by their logsumexp. As in transformers, rows of no more than 5 + 2 r
blocks with r random ones see all pairs, and the last block is what is left of the row behind whole blocks.
"""

import math
from functools import partial
from typing import Literal

import flax.linen as nn

from arch import config
from arch.layers.contract import Context, Output, SublayerConfig
from arch.layers.flops import Flops, Row, multiply_adds
from arch.mixers._attend import Block, attend_blocks, map_of, of_pairs
from arch.mixers._heads import from_heads, projections, to_heads
from arch.ops import patterns
from arch.ops.sparse_attention import merge
from arch.positions import none, rope
from arch.sharding.per_shard import per_shard
from arch.typing import Array, Bool, Float, Int


@config.frozen
class Config(SublayerConfig):
    """BigBird's attention.

    Attributes:
      num_heads: heads.
      head_dim: channels a head.
      block_size: tokens of a block of the equation.
      random: blocks drawn for each block of queries.
      seed: of the draws; the released code takes the layer's number from 0.
      longest: tokens of the longest row that the model knows, which the draws of some lengths depend on.
      evaluation: what a block sees for its random ones where nothing is trained: those that were 'drawn', as in the
        released code, or the row's 'first' block for each, which then counts 1 + random times, as in transformers.
      position: the position scheme, one that acts on heads.
      bias: learned shifts of all projections.
      block: tokens of a block of the kernel; 0 for what suits the device.
    """

    num_heads: config.PositiveInt
    head_dim: config.PositiveInt
    block_size: config.PositiveInt = 64
    random: config.SizeOrZero = 3
    seed: config.NonNegativeInt = 0
    longest: config.PositiveInt = 4096
    evaluation: Literal["drawn", "first"] = "drawn"
    position: config.choice("positions") = none.Config()
    bias: bool = False
    block: Block = 0

    def check(self):
        self.position.must_act("heads")

    def make(self, name: str | None = None) -> "BigBirdAttention":
        """The Linen module."""
        return BigBirdAttention(self, name=name)

    def maps(self, length: int, *, drawn: bool = True) -> tuple[patterns.BlockMap, ...]:
        """What follows from the places; then, if there are any, the random blocks, or what stands for them."""
        size, blocks = self.block_size, -(-length // self.block_size)
        if length <= (5 + 2 * self.random) * size:
            return (map_of(patterns.full, length, length, self.block),)
        seen = [patterns.block_local(size) | patterns.ends(size, length - (blocks - 1) * size)]
        if self.random and drawn:
            of_draws = dict(size=size, draws=self.num_heads, longest=self.longest)
            seen.append(patterns.released_blocks(self.random, self.seed, **of_draws))
        elif self.random:
            seen.append(patterns.block_list(size, ((), *((0,),) * (blocks - 2))))
        return tuple(map_of(pattern, length, length, self.block) for pattern in seen)

    def flops(self, row: Row) -> Flops:
        """Four projections, and two products for each pair, the random blocks drawn; executed: of pairs met."""
        maps, channels = self.maps(row.length), self.num_heads * self.head_dim
        seen, met = (
            2 * channels * sum(getattr(blocks, kind) // blocks.heads for blocks in maps)
            for kind in ("visible_pairs", "visited_pairs")
        )
        return multiply_adds(projections(row, self.num_heads, *[self.head_dim] * 4)) + of_pairs(seen, met)

    def lacks(self) -> tuple[str, ...]:
        """It looks ahead, and so decodes nothing; blocks are those of the row, whatever is packed or padded in it."""
        return "causal", "segments", "padding", "cache", "context"


class BigBirdAttention(nn.Module):
    """Self-attention over x."""

    cfg: Config

    @nn.compact
    def __call__(self, x: Float[Array, "b t d"], context: Context, cache: None = None) -> Output:
        cfg = self.cfg

        def project(name):
            return to_heads(self, name, x, cfg.num_heads, cfg.head_dim, bias=cfg.bias)

        query, key = (cfg.position.rotate(project(name), context.positions) for name in ("query", "key"))
        drawn = cfg.evaluation == "drawn" or not context.deterministic
        maps, times = cfg.maps(x.shape[1], drawn=drawn), 1 if drawn else cfg.random
        arguments = (query, key, project("value"), context.segment_ids, context.valid)
        heads, row = ("batch", None, None, None), ("batch", None)
        attend = partial(attend_apart, maps=maps, times=times)
        out = per_shard(attend, arguments, (heads,) * 3 + (row,) * 2, heads, reduce="head_dim")
        return Output(from_heads(self, out, x.shape[-1], bias=cfg.bias))


def attend_apart(
    query: Float[Array, "b t n h"],
    key: Float[Array, "b t n h"],
    value: Float[Array, "b t n h"],
    segments: Int[Array, "b t"] | None,
    valid: Bool[Array, "b t"] | None,
    *,
    maps: tuple[patterns.BlockMap, ...],
    times: int = 1,
) -> Float[Array, "b t n h"]:
    """Attention to the pairs of all maps together; a pair counts once for each that shows it.

    Args:
      query: [b t n h].
      key: [b t n h].
      value: [b t n h].
      segments: [b t] documents; a token sees its own one only.
      valid: [b t] False for tokens that nobody sees.
      maps: of blocks.
      times: how often a pair counts in each map but the first.
    """
    first, *others = (
        attend_blocks(query, key, value, blocks, segments=(segments, segments), valid=valid) for blocks in maps
    )
    return merge([first, *((out, logsumexp + math.log(times)) for out, logsumexp in others)])[0]


EXAMPLES = (
    Config(num_heads=2, head_dim=6, block_size=1, random=1, position=rope.Config(theta=9.0), bias=True),
    Config(num_heads=3, head_dim=4, block_size=2, random=2, seed=1, evaluation="first"),
)
