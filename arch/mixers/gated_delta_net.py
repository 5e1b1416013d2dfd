"""Gated DeltaNet: convolutions and the gated delta rule, normed and gated a head.

    q, k, v = silu(conv(x W)), each with a W and taps of its own;   q, k divided by their lengths
    beta = sigmoid(x W_b);   log a = -exp(A_log) softplus(x W_a + b)
    y = (RMSNorm(gated_delta(q / sqrt(h), k, v, log a, beta)) * silu(x W_g)) W_out

Yang, Kautz, Hatamizadeh, Gated Delta Networks: Improving Mamba2 with Delta Rule, 2024, arXiv 2412.06464, sec. 3.4 and
fig. 1; the decay and its initialisation are Mamba-2's.
"""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from arch import config
from arch.layers.contract import Context, Output, SublayerConfig
from arch.layers.flops import Flops, Row, multiply_adds
from arch.layers.weight import constant, normal, weight
from arch.mixers import _recurrence
from arch.mixers.mamba import step_bias_init
from arch.mixers.mamba2 import decay_init
from arch.ops.norm import rms_norm
from arch.sharding.context import causal_conv
from arch.sharding.mesh import constrain
from arch.typing import Array, Float


@config.frozen
class Config(SublayerConfig):
    """Gated DeltaNet.

    Attributes:
      num_heads: heads of the state.
      key_dim: channels of a query and a key.
      value_dim: channels of a value, twice key_dim in the paper.
      num_key_heads: queries and keys, a divisor of num_heads; 0 for num_heads.
      conv_width: taps of the convolutions.
      epsilon: of the norm.
      chunk: tokens that are solved for at a time.
    """

    num_heads: config.PositiveInt
    key_dim: config.PositiveInt
    value_dim: config.PositiveInt
    num_key_heads: config.SizeOrZero = 0
    conv_width: config.PositiveInt = 4
    epsilon: config.PositiveFloat = 1e-6
    chunk: config.PositiveInt = 64

    def check(self):
        if self.num_heads % self.key_heads:
            raise ValueError(f"num_heads={self.num_heads} must be a multiple of num_key_heads={self.num_key_heads}")

    @property
    def key_heads(self) -> int:
        """Queries and keys, with the default resolved."""
        return self.num_key_heads or self.num_heads

    @property
    def parts(self) -> dict[str, tuple[int, int]]:
        """What the convolutions go over: (heads, channels a head)."""
        keys = self.key_heads, self.key_dim
        return {"query": keys, "key": keys, "value": (self.num_heads, self.value_dim)}

    def make(self, name: str | None = None) -> "GatedDeltaNet":
        """The Linen module."""
        return GatedDeltaNet(self, name=name)

    def init_cache(self, batch: int, length: int, embed_dim: int, dtype: Any) -> dict[str, Array]:
        """The last inputs of the convolutions [b w-1 f] and the state [b n value_dim key_dim], whatever the length."""
        tails = {name: jnp.zeros((batch, self.conv_width - 1, n * h), dtype) for name, (n, h) in self.parts.items()}
        return tails | {"state": jnp.zeros((batch, self.num_heads, self.value_dim, self.key_dim), jnp.float32)}

    def flops(self, row: Row) -> Flops:
        """Products, convolutions and the rule.

        The recurrence is, for each state, a S, S k, S + u k and S q. Executed in chunks of c tokens are, for each
        token, c overlaps of keys and c scores a key head, a triangular solve and a sum over c values, and what is read
        from the state, twice, and written to it.
        """
        d, t, n = row.embed_dim, row.length, self.num_heads
        conv, f, states = sum(n * h for n, h in self.parts.values()), n * self.value_dim, self.key_dim
        around = t * (d * (conv + 2 * n + 2 * f) + self.conv_width * conv)
        count = -(-t // self.chunk)
        c = -(-t // count)
        a_token = 2 * c * self.key_heads * states + c * f + 3 * f * states
        recurrence = 4 * t * f * states
        return multiply_adds(around + recurrence, executed=around + (recurrence if t == 1 else count * c * a_token))


class GatedDeltaNet(nn.Module):
    """One Gated DeltaNet layer; its cache does not grow with the length."""

    cfg: Config

    @nn.compact
    def __call__(self, x: Float[Array, "b t d"], context: Context, cache: dict | None = None) -> Output:
        cfg, d, n, f = self.cfg, x.shape[-1], self.cfg.num_heads, self.cfg.num_heads * self.cfg.value_dim
        own, exact = partial(weight, self, dtype=x.dtype), partial(weight, self)
        parts, tails = {}, {}
        for name in cfg.parts:
            parts[name], tails[name] = self._convolved(name, x, context, None if cache is None else cache[name])
        query, key = (_unit(parts[name]) for name in ("query", "key"))

        beta = jax.nn.sigmoid((x @ own("beta", normal(d**-0.5), embed=d, heads=n)).astype(jnp.float32))
        step_bias = exact("dt_bias", step_bias_init(0.001, 0.1), heads=n)
        step = jax.nn.softplus((x @ own("dt", normal(d**-0.5), embed=d, heads=n)).astype(jnp.float32) + step_bias)
        log_decay = -jnp.exp(exact("A_log", decay_init, heads=n)) * step
        if context.valid is not None:
            beta, log_decay = (jnp.where(context.valid[..., None], array, 0) for array in (beta, log_decay))

        state = None if cache is None else cache["state"]
        places = dict(state=state, reset=context.starts(), chunk=cfg.chunk)
        y, state = _recurrence.gated_delta(query * cfg.key_dim**-0.5, key, parts["value"], log_decay, beta, **places)
        normed = rms_norm(y, exact("norm", constant(1.0), head_dim=cfg.value_dim), epsilon=cfg.epsilon)
        gate = constrain(x @ own("gate", normal(d**-0.5), embed=d, hidden=f), "batch", "sequence", "hidden")
        out = (normed.reshape(gate.shape) * jax.nn.silu(gate)) @ own("out", normal(f**-0.5), hidden=f, embed=d)
        return Output(out, None if cache is None else tails | {"state": state})

    def _convolved(self, name, x, context, tail):
        """[b t n h] a projection of x behind its convolution, and the new tail."""
        (n, h), d, width = self.cfg.parts[name], x.shape[-1], self.cfg.conv_width
        kernel = weight(self, name, normal(d**-0.5), dtype=x.dtype, embed=d, hidden=n * h)
        taps = weight(self, f"{name}_conv", normal(width**-0.5), conv=width, hidden=n * h)
        segments = dict(segment_ids=context.segment_ids, valid=context.valid)
        u = constrain(x @ kernel, "batch", "sequence", "hidden")
        u, tail = causal_conv(u, taps, jnp.zeros(n * h), tail=tail, **segments)
        return jax.nn.silu(u).reshape(*u.shape[:2], n, h), tail


def _unit(x):
    """Each head divided by its length, in float32."""
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    return wide * jax.lax.rsqrt(jnp.sum(jnp.square(wide), axis=-1, keepdims=True) + 1e-6)


EXAMPLES = (Config(num_heads=4, num_key_heads=2, key_dim=3, value_dim=5, chunk=8),)
