"""Multi-head latent attention: keys and values of all heads are made of one small vector a token, which is cached.

    c = norm(x W_down),   k_i = [c W_key,i ; rotate(x W_rope)],   v_i = c W_value,i
    q_i = [a ; rotate(b)],   [a ; b] = norm(x W_query_down) W_query,i
    x W_O  of  softmax(q_i k_i^T / sqrt(h + r)) v_i                                 the key that turns serves all heads

DeepSeek-AI, DeepSeek-V2, 2024, arXiv 2405.04434, sec. 2.1, eq. 9-19; the norms are those of sec. 3.1.2. With a cache
the up-projections move to the queries and results, as sec. 2.1.2 says: (a W_key^T) c^T is a (c W_key)^T, so that a step
is multi-query attention over c and the key that turns, and no head's key or value is ever made.
"""

from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from arch import config
from arch.kernels import implementations
from arch.layers import norm as norms
from arch.layers.contract import Context, Output, SublayerConfig
from arch.layers.flops import Flops, Row, multiply_adds
from arch.layers.weight import normal, weight
from arch.mixers._split_attention import Sight, attend_split
from arch.ops.attention import attend, attention_mask, visible_pairs
from arch.ops.cache import slots, write
from arch.ops.chunked_attention import CHUNK, chunked_attend, visited_pairs
from arch.positions import rope
from arch.sharding.context import shards
from arch.sharding.mesh import constrain
from arch.typing import Array, Float


@config.frozen
class Config(SublayerConfig):
    """Latent attention; causal.

    Attributes:
      num_heads: heads.
      latent_dim: channels of the latent that keys and values are made of (d_c in the paper).
      query_latent_dim: channels of the latent that queries are made of (d_c'); 0 for the stream itself.
      head_dim: channels of a head's query and key that do not turn (d_h).
      rope_dim: those that turn (d_h^R).
      value_dim: channels of a head's value.
      position: the position scheme of the latter, one that acts on heads.
      norm: of both latents.
      scale: factor of the logits; 0 for (head_dim + rope_dim) ** -0.5.
      dropout: probability of zeroing an attention weight.
    """

    num_heads: config.PositiveInt
    latent_dim: config.PositiveInt
    head_dim: config.PositiveInt
    rope_dim: config.PositiveInt
    value_dim: config.PositiveInt
    query_latent_dim: config.SizeOrZero = 0
    position: config.choice("positions") = rope.Config(pairing="interleaved")
    norm: norms.Config = norms.Config()
    scale: config.NonNegativeFloat = 0.0
    dropout: config.Fraction = 0.0

    def check(self):
        self.position.must_act("heads")

    def lacks_in_training(self) -> tuple[str, ...]:
        """Weights that drop out are not those of parts of a row."""
        return ("context",) if self.dropout else ()

    @property
    def factor(self) -> float:
        """Factor of the logits, with the default resolved."""
        return self.scale or (self.head_dim + self.rope_dim) ** -0.5

    def make(self, name: str | None = None) -> "LatentAttention":
        """The Linen module."""
        return LatentAttention(self, name=name)

    def init_cache(self, batch: int, length: int, embed_dim: int, dtype: Any) -> dict[str, Array]:
        """Latents with their rope keys behind them [b 1 length latent_dim + rope_dim], and tokens a row holds [b]."""
        latents = jnp.zeros((batch, 1, length, self.latent_dim + self.rope_dim), dtype)
        return {"latent": latents, "length": jnp.zeros((batch,), jnp.int32)}

    def chunked(self, length: int, dropout: float) -> bool:
        """Whether rows of so many tokens go a chunk of queries at a time (`arch.ops.chunked_attention`)."""
        return length > CHUNK and not dropout

    def flops(self, row: Row) -> Flops:
        """Projections down, up and out, and two products for each pair of tokens; executed: of those that are met."""
        d, n, wide = row.embed_dim, self.num_heads, self.head_dim + self.rope_dim
        down = d * (self.latent_dim + self.rope_dim + self.query_latent_dim)
        up = n * ((self.query_latent_dim or d) * wide + self.latent_dim * (self.head_dim + self.value_dim))
        a_pair, pairs = n * (wide + self.value_dim), visible_pairs(row.length, causal=True)
        in_chunks = self.chunked(row.length, self.dropout)
        met = a_pair * (visited_pairs(row.length, causal=True) if in_chunks else row.length**2)
        projections = multiply_adds(row.length * (down + up + n * self.value_dim * d))
        return projections + multiply_adds(a_pair * pairs, executed=met, anew=in_chunks * met // 2)


class LatentAttention(nn.Module):
    """Self-attention over x with keys and values of every head, or over the latents of a cache."""

    cfg: Config

    @nn.compact
    def __call__(self, x: Float[Array, "b t d"], context: Context, cache: dict | None = None) -> Output:
        cfg, d, n, r = self.cfg, x.shape[-1], self.cfg.num_heads, self.cfg.latent_dim
        own = partial(weight, self, dtype=x.dtype)

        latent = cfg.norm.make("latent_norm")(x @ own("latent_down", normal(d**-0.5), embed=d, rank=r))
        turning = x @ own("rope_key", normal(d**-0.5), embed=d, head_dim=cfg.rope_dim)
        turning = cfg.position.rotate(turning[:, :, None], context.positions)
        query = self._query(x, own)
        query, turned = jnp.split(query, [cfg.head_dim], axis=-1)
        turned = cfg.position.rotate(turned, context.positions)

        up_key = own("key", normal(r**-0.5), rank=r, heads=n, head_dim=cfg.head_dim)
        up_value = own("value", normal(r**-0.5), rank=r, heads=n, head_dim=cfg.value_dim)
        if cache is None:
            key, value = (jnp.einsum("btr,rnh->btnh", latent, up) for up in (up_key, up_value))
            turning = jnp.broadcast_to(turning, (*turning.shape[:2], n, cfg.rope_dim))
            parts = (query, turned), (key, turning)
            query, key = (jnp.concatenate(part, axis=-1) for part in parts)
            if shards(x.shape[1]) > 1:
                out = attend_split(Sight(scale=cfg.factor), "ring", query, key, value, None, None, context)
            else:
                out = _over_rows(cfg, query, key, value, context)
        else:
            query = jnp.concatenate([jnp.einsum("btnh,rnh->btnr", query, up_key), turned], axis=-1)
            key = jnp.concatenate([latent[:, :, None], turning], axis=-1)
            out, cache = _over_cache(cfg, query, key, context, cache)
            out = jnp.einsum("btnr,rnh->btnh", out, up_value)
        out = constrain(out, "batch", "sequence", "heads", None)
        result = own("out", normal((n * cfg.value_dim) ** -0.5), heads=n, head_dim=cfg.value_dim, embed=d)
        return Output(jnp.tensordot(out, result, 2), cache)

    def _query(self, x, own):
        """[b t n h + rope] queries that are not turned yet, of the stream or of its latent."""
        cfg, d, axis = self.cfg, x.shape[-1], "embed"
        if cfg.query_latent_dim:
            x = x @ own("query_down", normal(d**-0.5), embed=d, rank=cfg.query_latent_dim)
            x, d, axis = cfg.norm.make("query_norm")(x), cfg.query_latent_dim, "rank"
        shape = {axis: d, "heads": cfg.num_heads, "head_dim": cfg.head_dim + cfg.rope_dim}
        query = jnp.einsum("btd,dnh->btnh", x, own("query", normal(d**-0.5), **shape))
        return constrain(query, "batch", "sequence", "heads", None)


def _over_rows(cfg: Config, query, key, value, context: Context):
    """[b t n v] attention among the tokens of the call."""
    dropout = 0.0 if context.deterministic else cfg.dropout
    segments, valid = context.segment_ids, context.valid
    chunked = cfg.chunked(query.shape[1], dropout)
    implementations.tell("attention", "chunks" if chunked else "dense")
    if chunked:
        return chunked_attend(query, key, value, causal=True, segments=segments, valid=valid, scale=cfg.factor)
    places = jnp.arange(query.shape[1])[None]
    given = dict(query_segments=segments, key_segments=segments, key_valid=valid)
    mask = attention_mask(places, places, causal=True, **given)
    chance = dict(dropout=dropout, dropout_key=context.fold(0).key)
    return attend(query, key, value, mask=mask, scale=cfg.factor, **chance)


def _over_cache(cfg: Config, query, key, context: Context, cache):
    """[b t n r] sums of the latents that the tokens see, their own among them, and the new cache."""
    places, length = slots(cache["length"], context.real(), cache["latent"].shape[2])
    cache = {"latent": write(cache["latent"], places, key), "length": length}
    keys = cache["latent"].swapaxes(1, 2)
    mask = attention_mask(places, jnp.arange(keys.shape[1])[None], causal=True)
    return attend(query, keys, keys[..., : cfg.latent_dim], mask=mask, scale=cfg.factor), cache


EXAMPLES = (
    Config(num_heads=2, latent_dim=6, head_dim=3, rope_dim=2, value_dim=5, query_latent_dim=9, scale=0.4),
)
