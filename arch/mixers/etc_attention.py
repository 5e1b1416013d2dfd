"""ETC's attention: the row's first tokens are global and see all, the others see their neighbours and the global ones.

    e_ij = q_i (k_j + a_label(i,j)) / sqrt(h),     o_i = sum_j softmax_j(e_ij) v_j
    global i: over all j, or of the others only those of its part
    other i: over the global j, and over the others with |i - j| <= radius

    pair                        label
    global and global           clip(j - i, -c, c)
    global and other            whether both are of the same part of the input
    other and global            the same, with vectors of their own
    other and other             clip(j - i, -c, c)

Ainslie et al., ETC: Encoding Long and Structured Inputs in Transformers, 2020, arXiv 2004.08483, sec. 3.1-3.2: its
pieces g2g, g2l, l2g and l2l, with one query, key and value for all, as in the released code, whose sizes are the
defaults, and one output for all, where that has two. BigBird-ETC (Zaheer et al., 2020, arXiv 2007.14062, sec. 2) is
this attention beside random blocks or without them; here there are none. Parts are sentences, say, each with a global
token that stands for it: `Context.token_types` numbers them; without it no pair is of the same part. Time and memory
grow with the row's length times global tokens and radius. The arithmetic is `arch.ops.labelled_attention`.
"""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

from arch import config
from arch.layers.contract import Context, Output, SublayerConfig
from arch.layers.flops import Flops, Row, multiply_adds
from arch.layers.weight import normal, weight
from arch.mixers._heads import from_heads, projections, to_heads
from arch.ops.attention import visible_pairs
from arch.ops.labelled_attention import few_to_all, near_and_few
from arch.typing import Array, Float


@config.frozen
class Config(SublayerConfig):
    """ETC's attention.

    Attributes:
      num_heads: heads.
      head_dim: channels a head.
      num_globals: how many of a row's first tokens are global.
      radius: tokens before a token, and behind it, that it sees.
      max_distance: c, from which on all distances have one label.
      own_part: a global token sees of the others only those of its part, as in the released models.
      bias: learned shifts of all projections.
    """

    num_heads: config.PositiveInt
    head_dim: config.PositiveInt
    num_globals: config.PositiveInt
    radius: config.PositiveInt = 84
    max_distance: config.PositiveInt = 12
    own_part: bool = False
    bias: bool = False

    def make(self, name: str | None = None) -> "EtcAttention":
        """The Linen module."""
        return EtcAttention(self, name=name)

    def flops(self, row: Row) -> Flops:
        """Four projections, two products for each pair, and one of each query with each label; executed: of pairs met.

        A block of `radius` queries meets three blocks of keys.
        """
        few = min(self.num_globals, row.length)
        tokens, channels = row.length - few, self.num_heads * self.head_dim
        around = projections(row, self.num_heads, *[self.head_dim] * 4)
        of_few = few * (row.length + (2 * self.max_distance + 3) / 2)
        blocks = -(-tokens // self.radius)
        required = visible_pairs(tokens, causal=False, window=self.radius + 1)
        met, labels = 3 * blocks * self.radius**2, (2 * self.max_distance + 3) / 2
        seen = int(2 * channels * (required + tokens * (few + labels) + of_few))
        executed = int(2 * channels * (met + blocks * self.radius * (few + labels) + of_few))
        return multiply_adds(around) + multiply_adds(seen, executed=executed)

    def lacks(self) -> tuple[str, ...]:
        """It looks ahead, and so decodes nothing; what is packed in a row would share its global tokens."""
        return "causal", "segments", "cache", "context"


class EtcAttention(nn.Module):
    """Self-attention over x, whose first tokens are global."""

    cfg: Config

    @nn.compact
    def __call__(self, x: Float[Array, "b t d"], context: Context, cache: None = None) -> Output:
        cfg, g = self.cfg, min(self.cfg.num_globals, x.shape[1])

        def project(name):
            return to_heads(self, name, x, cfg.num_heads, cfg.head_dim, bias=cfg.bias)

        def labels(name, count):
            axes = dict(buckets=count, heads=cfg.num_heads, head_dim=cfg.head_dim)
            return weight(self, f"{name}_labels", normal(cfg.head_dim**-0.5), dtype=x.dtype, **axes)

        query, key, value = (project(name) for name in ("query", "key", "value"))
        valid, types, scale = context.real(), context.token_types, cfg.head_dim**-0.5
        linked = None if types is None else types[:, :g, None] == types[:, None, g:]
        of_few = labels("global", 2 * cfg.max_distance + 1), labels("global_other", 2)
        masks = dict(linked=linked, linked_only=cfg.own_part, valid=valid)
        few = few_to_all(query[:, :g], key, value, *of_few, **masks, scale=scale)
        of_others = labels("near", 2 * cfg.max_distance + 1), labels("other_global", 2)
        if g < x.shape[1]:
            attend = jax.checkpoint(partial(near_and_few, radius=cfg.radius, scale=scale), prevent_cse=False)
            links = None if linked is None else linked.swapaxes(1, 2)
            others = (array[:, g:] for array in (query, key, value))
            masks = dict(linked=links, valid=valid[:, g:], few_valid=valid[:, :g])
            few = jnp.concatenate([few, attend(*others, key[:, :g], value[:, :g], *of_others, **masks)], axis=1)
        return Output(from_heads(self, few, x.shape[-1], bias=cfg.bias))


EXAMPLES = (Config(num_heads=2, head_dim=3, num_globals=4, radius=3, max_distance=2, bias=True),)
