"""Mamba-2: a convolution and a state space with one decay a head, computed with matrix products.

    z, u, B, C, delta = x W;   u, B, C = silu(conv(u, B, C));   delta = softplus(delta + b)
    y = RMSNorm(ssd(u, delta, A, B, C, D) * silu(z)) W_out,     A = -exp(A_log)

Dao & Gu, Transformers are SSMs: Generalized Models and Efficient Algorithms Through Structured State Space Duality,
2024, arXiv 2405.21060, sec. 7 and fig. 6; initialisation as in its released code. The norm is of each group by itself,
with the gate before it, as there.
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
from arch.ops.norm import rms_norm
from arch.sharding.context import causal_conv
from arch.sharding.mesh import constrain
from arch.typing import Array, Float


@config.frozen
class Config(SublayerConfig):
    """Mamba-2.

    Attributes:
      num_heads: heads of the state space.
      head_dim: channels a head; the heads' channels together are twice embed_dim in the paper.
      state_dim: states a channel (N in the paper).
      num_groups: groups of heads that share B and C, and a norm.
      conv_width: taps of the convolution.
      dt_min: least initial step size.
      dt_max: greatest initial step size.
      least_step: of any token; 0 for none.
      epsilon: of the norm.
      chunk: tokens that are multiplied at a time.
    """

    num_heads: config.PositiveInt
    head_dim: config.PositiveInt = 64
    state_dim: config.PositiveInt = 128
    num_groups: config.PositiveInt = 1
    conv_width: config.PositiveInt = 4
    dt_min: config.PositiveFloat = 0.001
    dt_max: config.PositiveFloat = 0.1
    least_step: config.NonNegativeFloat = 0.0
    epsilon: config.PositiveFloat = 1e-5
    chunk: config.PositiveInt = 64

    def check(self):
        if self.dt_min > self.dt_max:
            raise ValueError(f"dt_min={self.dt_min} must be at most dt_max={self.dt_max}")
        if self.num_heads % self.num_groups:
            raise ValueError(f"num_heads={self.num_heads} must be a multiple of num_groups={self.num_groups}")

    def make(self, name: str | None = None) -> "Mamba2":
        """The Linen module."""
        return Mamba2(self, name=name)

    @property
    def inner_dim(self) -> int:
        """Channels of all heads."""
        return self.num_heads * self.head_dim

    @property
    def parts(self) -> dict[str, int]:
        """What the convolution goes over, with its channels."""
        return {"in": self.inner_dim, "B": self.num_groups * self.state_dim, "C": self.num_groups * self.state_dim}

    def init_cache(self, batch: int, length: int, embed_dim: int, dtype: Any) -> dict[str, Array]:
        """The last inputs of the convolutions [b w-1 f] and the state [b n h state_dim], whatever the length."""
        tails = {name: jnp.zeros((batch, self.conv_width - 1, f), dtype) for name, f in self.parts.items()}
        state = jnp.zeros((batch, self.num_heads, self.head_dim, self.state_dim), jnp.float32)
        return tails | {"state": state}

    def flops(self, row: Row) -> Flops:
        """Products, convolution and state space.

        The recurrence is, for each state, a S, S + x B and S C. Executed in chunks of c tokens are, for each token, c
        scores a group, their sum over c values, and what is read from and written to the state.
        """
        d, f, t = row.embed_dim, self.inner_dim, row.length
        conv = sum(self.parts.values())
        around = t * (d * (f + conv + self.num_heads) + self.conv_width * conv + f * d)
        count = -(-t // self.chunk)
        c = -(-t // count)
        executed = count * c * (c * (self.num_groups * self.state_dim + f) + 2 * f * self.state_dim)
        recurrence = 3 * t * f * self.state_dim
        return multiply_adds(around + recurrence, executed=around + (recurrence if t == 1 else executed))


def decay_init(key, shape):
    """A_log whose A is uniform in [-16, -1]."""
    return jnp.log(jax.random.uniform(key, shape, minval=1.0, maxval=16.0))


class Mamba2(nn.Module):
    """One Mamba-2 layer; its cache does not grow with the length."""

    cfg: Config

    @nn.compact
    def __call__(self, x: Float[Array, "b t d"], context: Context, cache: dict | None = None) -> Output:
        cfg, (b, t, d), n, f = self.cfg, x.shape, self.cfg.num_heads, self.cfg.inner_dim
        own = partial(weight, self, dtype=x.dtype)
        exact = partial(weight, self)  # what shapes the recurrence stays in float32

        z = constrain(x @ own("gate", normal(d**-0.5), embed=d, hidden=f), "batch", "sequence", "hidden")
        parts, tails = {}, {}
        for name, channels in cfg.parts.items():
            tail = None if cache is None else cache[name]
            parts[name], tails[name] = self._convolved(name, channels, x, context, tail)
        step = x @ own("dt", normal(d**-0.5), embed=d, heads=n)
        step_bias = exact("dt_bias", step_bias_init(cfg.dt_min, cfg.dt_max), heads=n)
        delta = jnp.maximum(jax.nn.softplus(step.astype(step_bias.dtype) + step_bias), cfg.least_step)
        if context.valid is not None:
            delta = jnp.where(context.valid[..., None], delta, 0.0)

        A, D = -jnp.exp(exact("A_log", decay_init, heads=n)), exact("D", constant(1.0), heads=n)
        u = parts["in"].reshape(b, t, n, cfg.head_dim)
        B, C = (parts[name].reshape(b, t, cfg.num_groups, cfg.state_dim) for name in ("B", "C"))
        state = None if cache is None else cache["state"]
        y, state = _recurrence.ssd(u, delta, A, B, C, D, state=state, reset=context.starts(), chunk=cfg.chunk)

        groups = (y.reshape(b, t, f) * jax.nn.silu(z)).reshape(b, t, cfg.num_groups, -1)
        normed = rms_norm(groups, jnp.ones(groups.shape[-1]), epsilon=cfg.epsilon).reshape(b, t, f)
        out = (normed * own("norm", constant(1.0), hidden=f)) @ own("out", normal(f**-0.5), hidden=f, embed=d)
        return Output(out, None if cache is None else tails | {"state": state})

    def _convolved(self, name, channels, x, context, tail):
        """A projection of x behind its convolution, and the new tail."""
        d, width = x.shape[-1], self.cfg.conv_width
        axis = "hidden" if name == "in" else "state"
        u = x @ weight(self, name, normal(d**-0.5), dtype=x.dtype, embed=d, **{axis: channels})
        suffix = "" if name == "in" else f"_{name}"
        taps = weight(self, f"conv{suffix}", normal(width**-0.5), conv=width, **{axis: channels})
        bias = weight(self, f"conv_bias{suffix}", constant(0.0), **{axis: channels})
        segments = dict(segment_ids=context.segment_ids, valid=context.valid)
        u, tail = causal_conv(u, taps, bias, tail=tail, channels=axis, **segments)
        return constrain(jax.nn.silu(u), "batch", "sequence", "hidden" if name == "in" else None), tail


EXAMPLES = (Config(num_heads=4, head_dim=5, state_dim=3, num_groups=2, chunk=8),)
