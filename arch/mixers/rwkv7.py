"""Time mixing of RWKV-7: a state whose channels decay, are taken away and are written to as each token says.

    r, k, v = x_r W_r, x_k W_k, x_v W_v,     x_i = mu_i * x_t + (1 - mu_i) * x_{t-1}, each with a mu of its own
    log w = -e^(-1/2) sigmoid(b_w + tanh(x_w A_w) B_w);   a = sigmoid(b_a + x_a A_a B_a);   g = sigmoid(x_g A_g) B_g
    c = k * xi, divided by its length a head;   k <- k * (1 + (a - 1) * alpha)
    v <- v + (v of the first layer - v) * sigmoid(b_v + x_v A_v B_v)     where values are 'residual'
    y = ((LayerNorm of each head(wkv7(r, w, k, v, c, a)) + (r . (rho * k)) v) * g) W_out

Peng et al., RWKV-7 "Goose" with Expressive Dynamic State Evolution, 2025, arXiv 2503.14456, sec. 4.1, whose mu is one
minus that here. Initial values are those of its released code for the layer in the middle; products start normal and
not orthogonal, and the last one not at zero.
"""

import math
from functools import partial
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from arch import config
from arch.layers.contract import Context, Output, SublayerConfig
from arch.layers.flops import Flops, Row, multiply_adds
from arch.layers.token_mix import mixed
from arch.layers.weight import constant, normal, weight
from arch.mixers import _recurrence
from arch.ops.norm import layer_norm
from arch.sharding.context import token_shift
from arch.sharding.mesh import constrain
from arch.typing import Array, Float

FIRST_VALUES = "rwkv7_first_values"
"""Name in `Context.shared` of the first layer's values."""


@config.frozen
class Config(SublayerConfig):
    """Time mixing of RWKV-7.

    Attributes:
      num_heads: heads of the state, embed_dim / head_dim in the paper.
      head_dim: channels of a head.
      decay_rank: of what the decays are made of.
      rate_rank: of the rates of removal.
      gate_rank: of the gate.
      value_rank: of the share of the first layer's values, where values are 'residual'.
      values: 'own' values only; those of the 'first' layer, which later ones read; or 'residual' ones, mixed with them.
      epsilon: of the norm.
      chunk: tokens that are multiplied at a time, a power of two.
    """

    num_heads: config.PositiveInt
    head_dim: config.PositiveInt = 64
    decay_rank: config.PositiveInt = 64
    rate_rank: config.PositiveInt = 64
    gate_rank: config.PositiveInt = 128
    value_rank: config.PositiveInt = 32
    values: Literal["own", "first", "residual"] = "own"
    epsilon: config.PositiveFloat = 64e-5
    chunk: config.PositiveInt = 16

    def check(self):
        if self.chunk & (self.chunk - 1):
            raise ValueError(f"chunk={self.chunk} must be a power of two")

    @property
    def inner_dim(self) -> int:
        """Channels of all heads."""
        return self.num_heads * self.head_dim

    def make(self, name: str | None = None) -> "Rwkv7":
        """The Linen module."""
        return Rwkv7(self, name=name)

    def init_cache(self, batch: int, length: int, embed_dim: int, dtype: Any) -> dict[str, Array]:
        """The last token [b d] and the state [b n h h], whatever the length."""
        shape = (batch, self.num_heads, self.head_dim, self.head_dim)
        return {"last": jnp.zeros((batch, embed_dim), dtype), "state": jnp.zeros(shape, jnp.float32)}

    def flops(self, row: Row) -> Flops:
        """Products, those of low rank among them, and the recurrence.

        The recurrence is, for each state, c S, w S - (a c) (c S), k v and r S. Executed in chunks of c tokens are, for
        each token, four kinds of products of pairs, a sum over the c values for three of them, a triangular solve, and
        what is read from the state, twice, and written to it, twice.
        """
        f, h, n, t = self.inner_dim, self.head_dim, self.num_heads, row.length
        rank = self.decay_rank + self.rate_rank + self.gate_rank + (self.values == "residual") * self.value_rank
        around = t * (4 * row.embed_dim * f + (row.embed_dim + f) * rank)
        size = min(self.chunk, 1 << max(t - 1, 0).bit_length())
        tokens = -(-t // size) * size
        in_chunks = tokens * n * (2 * (size - 1) * h + 3 * size * h + 4 * h * h)
        recurrence = 5 * t * f * h
        return multiply_adds(around + recurrence, executed=around + (recurrence if t == 1 else in_chunks))


def _wave(channels: int, head_dim: int) -> Array:
    """[f] from -1 to 1 within each head, signed squares of even steps."""
    step = 2 * (jnp.arange(channels, dtype=jnp.float32) % head_dim) / max(1, head_dim - 1) - 1
    return step * jnp.abs(step)


def _slope(channels: int) -> Array:
    """[f] from -1/2 to 1/2 in even steps."""
    return jnp.arange(channels, dtype=jnp.float32) / max(1, channels - 1) - 0.5


def decay_init(head_dim: int):
    """Precursors of decays, the slower ones first."""
    rise = lambda f: 6 * (_slope(f) + 0.5) ** (1 + 0.5**0.3)
    return lambda key, shape: rise(shape[0]) - 5.5 + 2.5 * _wave(shape[0], head_dim)


def rate_init(head_dim: int):
    """Precursors of the rates of removal."""
    return lambda key, shape: 0.3 * _wave(shape[0], head_dim) + 0.4 * _slope(shape[0]) - 0.19


class Rwkv7(nn.Module):
    """One time mixing; its cache does not grow with the length."""

    cfg: Config

    @nn.compact
    def __call__(self, x: Float[Array, "b t d"], context: Context, cache: dict | None = None) -> Output:
        cfg, d, f, reset = self.cfg, x.shape[-1], self.cfg.inner_dim, context.starts()
        own, exact = partial(weight, self, dtype=x.dtype), partial(weight, self)
        last = None if cache is None else cache["last"]
        before, last = token_shift(x, last=last, reset=reset, valid=context.valid)
        shifted = lambda name, power: mixed(self, name, x, before, power=power)
        heads = lambda u: u.reshape(*u.shape[:2], cfg.num_heads, cfg.head_dim)

        def projected(name, power, stddev):
            u = shifted(name, power)
            out = u @ own(name, normal(stddev * d**-0.5), embed=d, hidden=f)
            return u, constrain(out, "batch", "sequence", "hidden")

        (_, receptance), (_, key) = projected("receptance", 0.1, 1.0), projected("key", 0.35, 0.1)
        mixture, value = projected("value", 0.35, 1.0)
        decay = self._low_rank("decay", shifted("decay", 0.45), cfg.decay_rank, jnp.tanh, decay_init(cfg.head_dim))
        log_decay = -math.exp(-0.5) * jax.nn.sigmoid(decay)
        rate = self._low_rank("rate", shifted("rate", 0.45), cfg.rate_rank, None, rate_init(cfg.head_dim))
        rate = jax.nn.sigmoid(rate)
        gate = self._low_rank("gate", shifted("gate", 0.1), cfg.gate_rank, jax.nn.sigmoid, None)
        value, shared = self._values(value, mixture, context)

        removal = _unit(heads(key * exact("removal", lambda _, shape: 0.71 - 0.1 * _slope(shape[0]), hidden=f)))
        key = key * (1 + (rate - 1) * exact("boost", constant(1.02), hidden=f))
        state = None if cache is None else cache["state"]
        receptance, key, value = heads(receptance), heads(key), heads(value)
        places = dict(state=state, reset=reset, valid=context.valid, chunk=cfg.chunk)
        y, state = _recurrence.wkv7(receptance, heads(log_decay), key, value, removal, heads(rate), **places)

        per_head = dict(heads=cfg.num_heads, head_dim=cfg.head_dim)
        y = layer_norm(y, jnp.ones(cfg.head_dim), None, epsilon=cfg.epsilon)
        y = y * exact("norm", constant(1.0), **per_head) + exact("norm_bias", constant(0.0), **per_head)
        bonus = jnp.sum(receptance * key * exact("bonus", constant(-0.04), **per_head), axis=-1, keepdims=True)
        out = ((y + bonus * value).reshape(gate.shape) * gate).astype(x.dtype)
        out = out @ own("out", normal(f**-0.5), hidden=f, embed=d)
        return Output(out, None if cache is None else {"last": last, "state": state}, shared=shared)

    def _low_rank(self, name, x, rank, activation, bias):
        """[b t f] in float32: a product through a few channels, with a shift that starts as `bias` does, None for none.

        It starts as that shift alone.
        """
        d, f = x.shape[-1], self.cfg.inner_dim
        low = x @ weight(self, f"{name}_down", constant(0.0), dtype=x.dtype, embed=d, rank=rank)
        low = low if activation is None else activation(low)
        out = low @ weight(self, f"{name}_up", normal(0.1 * f**-0.5), dtype=x.dtype, rank=rank, hidden=f)
        out = constrain(out, "batch", "sequence", "hidden").astype(jnp.float32)
        return out if bias is None else out + weight(self, f"{name}_bias", bias, hidden=f)

    def _values(self, value, mixture, context):
        """The values [b t f], and what later layers may read."""
        if self.cfg.values != "residual":
            return value, {FIRST_VALUES: value} if self.cfg.values == "first" else {}
        if FIRST_VALUES not in context.shared:
            raise ValueError("values='residual' must have a layer of values='first' before it")
        bias = lambda key, shape: 0.73 - 0.4 * _slope(shape[0])
        share = jax.nn.sigmoid(self._low_rank("value", mixture, self.cfg.value_rank, None, bias))
        return value + (context.shared[FIRST_VALUES] - value) * share.astype(value.dtype), {}


def _unit(x):
    """Each head divided by its length, in float32."""
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    return wide * jax.lax.rsqrt(jnp.maximum(jnp.sum(jnp.square(wide), axis=-1, keepdims=True), 1e-24))


EXAMPLES = (Config(num_heads=2, head_dim=3, decay_rank=2, rate_rank=2, gate_rank=2, chunk=8),)
