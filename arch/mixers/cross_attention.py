"""Attention from the tokens to a memory: an encoder's output, image patches, retrieved text.

    x W_O  of  softmax(q k^T / sqrt(h)) v,     q = x W_Q,  k = m W_K,  v = m W_V

Vaswani et al., 2017, arXiv 1706.03762, sec. 3.2.3; gated by tanh(alpha), alpha starting at 0, so that a frozen decoder
starts unchanged: Alayrac et al., Flamingo, 2022, arXiv 2204.14198, sec. 2.2.
"""

from functools import partial
from typing import Literal

import flax.linen as nn
import jax.numpy as jnp

from arch import config
from arch.layers.contract import Context, Output, SublayerConfig
from arch.layers.flops import Flops, Row, multiply_adds
from arch.layers.weight import constant, normal, weight
from arch.ops.attention import attend
from arch.ops.linear import linear
from arch.sharding.mesh import constrain, platform
from arch.typing import Array, Bool, Float


@config.frozen
class Config(SublayerConfig):
    """Cross-attention.

    Attributes:
      num_heads: heads.
      head_dim: channels a head.
      gated: the result is multiplied by tanh of a learned number that starts at 0.
      scale: factor of the logits; 0 for head_dim ** -0.5.
      bias: learned shifts: 'none', of query, key and value ('qkv'), or of the result too ('all').
      dropout: probability of zeroing an attention weight.
    """

    num_heads: config.PositiveInt
    head_dim: config.PositiveInt
    gated: bool = False
    scale: config.NonNegativeFloat = 0.0
    bias: Literal["none", "qkv", "all"] = "none"
    dropout: config.Fraction = 0.0

    def lacks(self) -> tuple[str, ...]:
        """The memory is on each device as a whole."""
        return ("context",)

    def make(self, name: str | None = None) -> "CrossAttention":
        """The Linen module."""
        return CrossAttention(self, name=name)

    def flops(self, row: Row) -> Flops:
        """Two projections of the tokens, two of the memory, and two products for each pair of the two."""
        channels = self.num_heads * self.head_dim
        ours = 2 * row.length * row.embed_dim * channels
        theirs = 2 * row.memory_length * (row.memory_dim or row.embed_dim) * channels
        return multiply_adds(ours + theirs + 2 * row.length * row.memory_length * channels)


class CrossAttention(nn.Module):
    """Reads `context.memory`, the same at every step of decoding; keeps no cache."""

    cfg: Config

    @nn.compact
    def __call__(self, x: Float[Array, "b t d"], context: Context, cache: None = None) -> Output:
        cfg, d = self.cfg, x.shape[-1]
        if context.memory is None:
            raise ValueError("memory=None: cross_attention needs Context.memory to read from")
        memory = context.memory.values.astype(x.dtype)
        own, product = partial(weight, self, dtype=x.dtype), partial(linear, platform=platform())

        def project(name, source):
            width = source.shape[-1]
            kernel = own(name, normal(width**-0.5), embed=width, heads=cfg.num_heads, head_dim=cfg.head_dim)
            out = product(source, kernel)
            if cfg.bias != "none":
                out += own(f"{name}_bias", constant(0.0), heads=cfg.num_heads, head_dim=cfg.head_dim)
            return constrain(out, "batch", "sequence", "heads", None)

        out = attend(
            project("query", x),
            project("key", memory),
            project("value", memory),
            mask=_mask(context),
            scale=cfg.scale or None,
            dropout=0.0 if context.deterministic else cfg.dropout,
            dropout_key=context.fold(0).key,
        )
        fan_in = cfg.num_heads * cfg.head_dim
        result = own("out", normal(fan_in**-0.5), heads=cfg.num_heads, head_dim=cfg.head_dim, embed=d)
        out = product(out, result, axes=2)
        if cfg.bias == "all":
            out += own("out_bias", constant(0.0), embed=d)
        return Output(jnp.tanh(own("gate", constant(0.0))) * out if cfg.gated else out)


def _mask(context: Context) -> Bool[Array, "#b #t s"] | None:
    """Which tokens may read what: all but padding, in packed rows of their own document."""
    memory = context.memory
    mask = None if memory.valid is None else memory.valid[:, None, :]
    if memory.segment_ids is None:
        return mask
    if context.segment_ids is None:
        raise ValueError("segment_ids=None: a packed memory needs the tokens' documents")
    same = context.segment_ids[:, :, None] == memory.segment_ids[:, None, :]
    return same if mask is None else same & mask


EXAMPLES = (
    Config(num_heads=3, head_dim=5, scale=0.7, bias="qkv"),
    Config(num_heads=2, head_dim=4, gated=True, bias="all"),
)
