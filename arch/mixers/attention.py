"""Multi-head attention: multi-head, grouped-query or multi-query, with any position scheme.

    x W_O  of  softmax(cap(q k^T / sqrt(h)) + bias) v,     q = rotate(norm(x W_Q)),  k = rotate(norm(x W_K)),  v = x W_V

Vaswani et al., 2017, arXiv 1706.03762; grouped heads: Ainslie et al., 2023, arXiv 2305.13245; QK norm: Dehghani et al.,
2023, arXiv 2302.05442; soft cap, window and sinks: see `arch.ops.attention`; rotate and bias: see `arch/positions`.
"""

from functools import partial
from typing import Any, Literal

import flax.linen as nn
import jax.numpy as jnp

from arch import config
from arch.layers.contract import Context, LogitBias, Output, SublayerConfig
from arch.layers.flops import Flops, Row, multiply_adds
from arch.layers.weight import constant, normal, weight
from arch.mixers._attend import Block, attend_cache, attend_tokens, map_of, of_pairs
from arch.mixers._split_attention import Sight, Split, attend_split
from arch.ops import patterns
from arch.ops.attention import visible_pairs
from arch.ops.chunked_attention import CHUNK, MOST_CHUNKS, visited_pairs
from arch.ops.linear import linear
from arch.ops.norm import rms_norm
from arch.patterns import by_head, full, longformer, strided
from arch.positions import alibi, none, relative, rope, rope_yarn
from arch.sharding.context import shards
from arch.sharding.mesh import constrain, platform
from arch.typing import Array, Float


@config.frozen
class Config(SublayerConfig):
    """Attention.

    Attributes:
      num_heads: query heads.
      head_dim: channels a head.
      num_kv_heads: key-value heads, a divisor of num_heads; 0 for num_heads (multi-head), 1 is multi-query.
      causal: a token sees only itself and what came before.
      window: a token sees only tokens less than so many places away, so the last `window` ones with itself when causal
        (Mistral) and a band of 2 window - 1 otherwise; 0 for all.
      pattern: which tokens see which, of those that `causal` and `window` let; only its blocks are computed. With a
        cache it is that of a row as long as the cache.
      block: tokens of a block of the pattern; 0 for what suits the device, 128 on TPU and 64 elsewhere.
      position: the position scheme, one that acts on heads or logits.
      qk_norm: RMSNorm of each head's query and key.
      soft_cap: bound of the logits; 0 for none.
      sinks: a learned logit a head in the softmax's denominator, so that a head may attend to nothing.
      scale: factor of the logits; 0 for head_dim ** -0.5.
      bias: learned shifts: 'none', of query, key and value ('qkv'), of the result ('out'), or of all four ('all').
      dropout: probability of zeroing an attention weight.
      split: how tokens on several devices see each other (`mesh.context`): keys and values go round them ('ring'), or
        each device takes all tokens of some heads ('heads'), as it always does with a pattern.
    """

    num_heads: config.PositiveInt
    head_dim: config.PositiveInt
    num_kv_heads: config.SizeOrZero = 0
    causal: bool = True
    window: config.SizeOrZero = 0
    pattern: config.choice("patterns") = full.Config()
    block: Block = 0
    position: config.choice("positions") = rope.Config()
    qk_norm: bool = False
    soft_cap: config.NonNegativeFloat = 0.0
    sinks: bool = False
    scale: config.NonNegativeFloat = 0.0
    bias: Literal["none", "qkv", "out", "all"] = "none"
    dropout: config.Fraction = 0.0
    split: Split = "ring"

    def check(self):
        if self.num_heads % self.kv_heads:
            raise ValueError(f"num_heads={self.num_heads} must be a multiple of num_kv_heads={self.num_kv_heads}")
        self.position.must_act("heads", "logits")
        if self.sparse and self.dropout:
            raise ValueError(f"dropout={self.dropout} must be 0 with a pattern")
        self.pattern.make(self.num_heads)

    @property
    def kv_heads(self) -> int:
        """Key-value heads, with the default resolved."""
        return self.num_kv_heads or self.num_heads

    @property
    def sparse(self) -> bool:
        """Whether there is a pattern."""
        return self.pattern != full.Config()

    def map(self, length: int) -> patterns.BlockMap:
        """The pattern's blocks in rows of so many tokens. Raises ValueError when there are too many to look at."""
        return map_of(self.sight.whole, length, length, self.block)

    @property
    def sight(self) -> Sight:
        """What a query sees, and how."""
        pattern = self.pattern.make(self.num_heads) if self.sparse else None
        logits = dict(scale=self.scale or None, soft_cap=self.soft_cap)
        return Sight(self.causal, self.window, pattern, self.block, **logits)

    def make(self, name: str | None = None) -> "Attention":
        """The Linen module."""
        return Attention(self, name=name)

    @property
    def rolling(self) -> bool:
        """Whether the cache holds only the tokens of the window: they are all that a later token sees."""
        return self.causal and self.window > 0 and not self.sparse

    def init_cache(self, batch: int, length: int, embed_dim: int, dtype: Any) -> dict[str, Array]:
        """Keys and values [b k length h], of the window at most, and how many tokens each row has had [b]."""
        length = min(self.window, length) if self.rolling else length
        heads = jnp.zeros((batch, self.kv_heads, length, self.head_dim), dtype)
        return {"key": heads, "value": heads, "length": jnp.zeros((batch,), jnp.int32)}

    def form(self, length: int, dropout: float) -> Literal["dense", "chunks", "blocks"]:
        """How XLA computes rows of so many tokens that have no pattern, where the device has no kernel for them.

        Up to a chunk all pairs at once, longer ones a chunk of queries at a time (`arch.ops.chunked_attention`). Where
        a bias or a soft cap of the logits or sinks are asked for, rows are dense until they are long, then computed in
        blocks (`arch.ops.sparse_attention`); and with dropout always dense.
        """
        if length <= CHUNK or dropout:
            return "dense"
        if not (self.position.acts == "logits" or self.soft_cap or self.sinks):
            return "chunks"
        return "blocks" if length > CHUNK * MOST_CHUNKS else "dense"

    def flops(self, row: Row) -> Flops:
        """Four projections, and two products for each pair of tokens that see each other; executed: that are met."""
        projections = row.length * row.embed_dim * 2 * (self.num_heads + self.kv_heads) * self.head_dim
        a_pair, sight = 2 * self.num_heads * self.head_dim, dict(causal=self.causal, window=self.window)
        if self.sparse:
            blocks = self.map(row.length)
            pairs, met = (a_pair * count // blocks.heads for count in (blocks.visible_pairs, blocks.visited_pairs))
            return multiply_adds(projections) + of_pairs(pairs, met)
        pairs = visible_pairs(row.length, **sight)
        if self.form(row.length, self.dropout) == "dense":
            return multiply_adds(projections) + multiply_adds(a_pair * pairs, executed=a_pair * row.length**2)
        return multiply_adds(projections) + of_pairs(a_pair * pairs, a_pair * visited_pairs(row.length, **sight))

    def lacks(self) -> tuple[str, ...]:
        """Attention that looks ahead is not causal, and from a cache it sees what came so far, not all.

        A pattern counts places in the row: a packed document does not see as it would alone, though never another one.
        Devices that take a part of the heads each want them all alike.
        """
        lacking = () if self.causal else ("causal", "cache")
        by_head = ("context",) if self.sparse and self.pattern.make(self.num_heads).heads > 1 else ()
        return lacking + (("segments",) if self.sparse else ()) + by_head

    def lacks_in_training(self) -> tuple[str, ...]:
        """Weights that drop out are not those of parts of a row."""
        return self.lacks() + (("context",) if self.dropout else ())


class Attention(nn.Module):
    """Self-attention over x, or over x and what the cache holds."""

    cfg: Config

    @nn.compact
    def __call__(self, x: Float[Array, "b t d"], context: Context, cache: dict | None = None) -> Output:
        cfg, d = self.cfg, x.shape[-1]
        own, product = partial(weight, self, dtype=x.dtype), partial(linear, platform=platform())

        def project(name, axis, heads):
            kernel = own(name, normal(d**-0.5), embed=d, **{axis: heads}, head_dim=cfg.head_dim)
            out = product(x, kernel)
            if cfg.bias in ("qkv", "all"):
                out += own(f"{name}_bias", constant(0.0), **{axis: heads}, head_dim=cfg.head_dim)
            return constrain(out, "batch", "sequence", axis, None)

        query = project("query", "heads", cfg.num_heads)
        key = project("key", "kv_heads", cfg.kv_heads)
        value = project("value", "kv_heads", cfg.kv_heads)
        if cfg.qk_norm:
            query, key = HeadNorm(name="query_norm")(query), HeadNorm(name="key_norm")(key)
        query, key = (cfg.position.rotate(heads, context.positions) for heads in (query, key))
        sinks = own("sinks", constant(0.0), dtype=jnp.float32, heads=cfg.num_heads) if cfg.sinks else None
        bias, shared = cfg.position.bias(own, cfg.num_heads, context.shared)
        out, cache = attend_heads(cfg, query, key, value, sinks, bias, context, cache)
        out = constrain(out, "batch", "sequence", "heads", None)
        fan_in = cfg.num_heads * cfg.head_dim
        result = own("out", normal(fan_in**-0.5), heads=cfg.num_heads, head_dim=cfg.head_dim, embed=d)
        out = product(out, result, axes=2)
        if cfg.bias in ("out", "all"):
            out += own("out_bias", constant(0.0), embed=d)
        return Output(out, cache, shared=shared)


def attend_heads(
    cfg: Config, query, key, value, sinks, bias: LogitBias | None, context: Context, cache: dict | None
) -> tuple[Float[Array, "b t n h"], dict | None]:
    """(attention among the tokens, or with those that the cache holds; the cache with them)."""
    given = (query, key, value, sinks, bias, context)
    if cache is not None:
        return attend_cache(cfg, *given, cache)
    if shards(query.shape[1]) > 1:
        return attend_split(cfg.sight, "heads" if cfg.sparse else cfg.split, *given), None
    return attend_tokens(cfg, *given), None


class HeadNorm(nn.Module):
    """RMSNorm over each head's channels, one scale for all heads."""

    @nn.compact
    def __call__(self, x: Float[Array, "b t n h"]) -> Float[Array, "b t n h"]:
        scale = weight(self, "scale", constant(1.0), head_dim=x.shape[-1])
        return rms_norm(x, scale, epsilon=1e-6)


PATTERN = by_head.Config(parts=(longformer.Config(window=6, globals=(2,)), strided.Config(stride=5)))
EXAMPLES = (
    Config(num_heads=3, head_dim=6, sinks=True, scale=0.3, position=rope_yarn.Config(factor=3.0, original_length=8)),
    Config(num_heads=6, num_kv_heads=2, head_dim=4, qk_norm=True, bias="all", window=5),
    Config(num_heads=5, num_kv_heads=1, head_dim=2, soft_cap=5.0, position=relative.EXAMPLES[0]),
    Config(num_heads=2, head_dim=10, bias="qkv", position=rope.Config(theta=9.0, fraction=0.5, pairing="interleaved")),
    Config(num_heads=3, head_dim=4, causal=False, window=4, position=none.Config()),
    Config(num_heads=6, num_kv_heads=3, head_dim=3, position=alibi.Config()),
    Config(num_heads=4, num_kv_heads=2, head_dim=4, pattern=PATTERN, block=4, position=alibi.Config()),
)
