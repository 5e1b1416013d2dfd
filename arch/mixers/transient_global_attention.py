"""LongT5's transient-global attention: a window, and summaries of the document's blocks, made anew in each layer.

    g_m = norm(sum of x_j over block m)
    o_i = softmax([q_i K^T + bias(j - i); q_i G^T + bias'(m - m_i)]) [V; H]     K, V: of tokens with |i - j| <= radius
                                                                               G, H: of the g_m of i's document
Guo et al., LongT5: Efficient Text-To-Text Transformer for Long Sequences, 2021, arXiv 2112.07916, sec. 3.1.2. Summaries
have the keys' and values' weights of tokens; m_i is i's own block. The two parts merge by their logsumexp. Time and
memory grow with the window and with a summary for each `summary` tokens; a mask of all pairs is never made.
"""

import dataclasses
from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from arch import config
from arch.layers.contract import Context, LogitBias, Output, SublayerConfig
from arch.layers.flops import Flops, Row, multiply_adds
from arch.layers.weight import constant, weight
from arch.mixers._attend import Block, attend_blocks, map_of, of_pairs
from arch.mixers._heads import from_heads, projections, to_heads
from arch.ops import patterns
from arch.ops.norm import rms_norm
from arch.ops.sparse_attention import merge
from arch.ops.summaries import summary_of, sums
from arch.positions import none, relative
from arch.sharding.per_shard import per_shard
from arch.typing import Array, Float, Int


@config.frozen
class Config(SublayerConfig):
    """Transient-global attention.

    Attributes:
      num_heads: heads.
      head_dim: channels a head.
      radius: tokens before a token, and behind it, that it sees.
      summary: tokens of a block that has a summary.
      position: the position scheme, one that acts on logits; summaries have weights of their own for it.
      scale: factor of the logits; 0 for head_dim ** -0.5.
      epsilon: of the summaries' RMSNorm.
      block: tokens of a block of the kernel; 0 for what suits the device.
    """

    num_heads: config.PositiveInt
    head_dim: config.PositiveInt
    radius: config.PositiveInt = 127
    summary: config.PositiveInt = 16
    position: config.choice("positions") = none.Config()
    scale: config.NonNegativeFloat = 0.0
    epsilon: config.PositiveFloat = 1e-6
    block: Block = 0

    def check(self):
        self.position.must_act("logits")

    def make(self, name: str | None = None) -> "TransientGlobalAttention":
        """The Linen module."""
        return TransientGlobalAttention(self, name=name)

    def maps(self, length: int) -> tuple[patterns.BlockMap, ...]:
        """Blocks of the window, and of all tokens' way to the summaries, if the row has any."""
        sizes = [(patterns.window(self.radius + 1), length, length)]
        if length >= self.summary:
            sizes.append((patterns.full, length, length // self.summary))
        return tuple(map_of(*size, self.block) for size in sizes)

    def flops(self, row: Row) -> Flops:
        """Projections of tokens and summaries, and two products for each pair; executed: of pairs met."""
        own, maps = self.num_heads * self.head_dim, self.maps(row.length)
        of_summaries = 2 * (row.length // self.summary) * row.embed_dim * own
        seen, met = (
            2 * own * sum(getattr(blocks, kind) for blocks in maps) for kind in ("visible_pairs", "visited_pairs")
        )
        of_tokens = projections(row, self.num_heads, *[self.head_dim] * 4)
        return multiply_adds(of_tokens + of_summaries) + of_pairs(seen, met)

    def lacks(self) -> tuple[str, ...]:
        """It looks ahead, and so decodes nothing."""
        return "causal", "cache", "context"


class TransientGlobalAttention(nn.Module):
    """Self-attention over x."""

    cfg: Config

    @nn.compact
    def __call__(self, x: Float[Array, "b t d"], context: Context, cache: None = None) -> Output:
        cfg, (b, t, d) = self.cfg, x.shape
        segments = jnp.ones((b, t), jnp.int32) if context.segment_ids is None else context.segment_ids
        segments = jnp.where(context.real(), segments, 0)
        number, documents = summary_of(context.positions, segments, cfg.summary)
        scale = weight(self, "summary_scale", constant(1.0), embed=d)
        summaries = rms_norm(sums(x, number, t // cfg.summary), scale, epsilon=cfg.epsilon)
        both = jnp.concatenate([x, summaries.astype(x.dtype)], axis=1)
        query = to_heads(self, "query", x, cfg.num_heads, cfg.head_dim)
        key, value = (to_heads(self, name, both, cfg.num_heads, cfg.head_dim) for name in ("key", "value"))

        biases, shared = self._biases(context.shared)
        arguments = (query, key, value, number, segments, documents, *(bias and bias.operands for bias in biases))
        heads, row = ("batch", None, None, None), ("batch", None)
        attend = partial(attend_with_summaries, maps=cfg.maps(t), biases=biases, scale=cfg.scale or None)
        whole = [(None,) * (0 if bias is None else bias.operands.ndim) for bias in biases]
        out = per_shard(attend, arguments, (heads,) * 3 + (row,) * 3 + tuple(whole), heads, reduce="head_dim")
        return Output(from_heads(self, out, d), shared=shared)

    def _biases(self, shared: dict) -> tuple[tuple[LogitBias | None, LogitBias | None], dict[str, Any]]:
        """Those of pairs of tokens and of a token and a summary, and what later layers read of both."""
        own, heads = partial(weight, self), self.cfg.num_heads
        of_summaries = lambda name, *args, **axes: own(f"{SUMMARY}{name}", *args, **axes)
        before = {name.removeprefix(SUMMARY): value for name, value in shared.items() if name.startswith(SUMMARY)}
        near, of_near = self.cfg.position.bias(own, heads, shared)
        far, of_far = self.cfg.position.bias(of_summaries, heads, before)
        return (near, far), of_near | {f"{SUMMARY}{name}": value for name, value in of_far.items()}


SUMMARY = "global_"
"""What the names of the summaries' weights for positions begin with."""


def attend_with_summaries(
    query: Float[Array, "b t n h"],
    key: Float[Array, "b tm n h"],
    value: Float[Array, "b tm n h"],
    number: Int[Array, "b t"],
    segments: Int[Array, "b t"],
    documents: Int[Array, "b m"],
    *operands: Array | None,
    maps: tuple[patterns.BlockMap, ...],
    biases: tuple[LogitBias | None, LogitBias | None],
    scale: float | None,
) -> Float[Array, "b t n h"]:
    """The equation of o_i.

    Args:
      query: [b t n h].
      key: [b t+m n h] of the tokens, then of the summaries.
      value: [b t+m n h].
      number: [b t] of each token's own summary; -1 for none.
      segments: [b t] documents from 1, 0 for padding.
      documents: [b m] of the summaries.
      operands: of the biases, None where there is none.
      maps: see `Config.maps`.
      biases: of pairs of tokens, and of a token and a summary.
      scale: factor of the logits; None for 1 / sqrt(h).
    """
    t = query.shape[1]
    near, far = (bias and dataclasses.replace(bias, operands=own) for bias, own in zip(biases, operands))
    given = dict(bias=near, segments=(segments, segments), valid=segments > 0, scale=scale)
    parts = [attend_blocks(query, key[:, :t], value[:, :t], maps[0], **given)]
    if len(maps) > 1:
        places = number, jnp.broadcast_to(jnp.arange(documents.shape[1]), documents.shape)
        given = dict(bias=far, segments=(segments, documents), valid=documents > 0, places=places, scale=scale)
        parts.append(attend_blocks(query, key[:, t:], value[:, t:], maps[1], **given))
    return merge(parts)[0]


EXAMPLES = (
    Config(
        num_heads=3,
        head_dim=4,
        radius=2,
        summary=3,
        position=relative.Config(buckets=6, max_distance=11, bidirectional=True, shares=False),
        scale=1.0,
        block=4,
    ),
)
