"""Mamba: a convolution and a selective state space in place of attention.

    u, z = x W_in;   u = silu(conv(u));   delta, B, C = u W_x;   delta = softplus(delta W_dt + b)
    y = (scan(u, delta, A, B, C, D) * silu(z)) W_out,     A = -exp(A_log)

Gu & Dao, Mamba: Linear-Time Sequence Modeling with Selective State Spaces, 2023, arXiv 2312.00752, sec. 3.4 and fig. 3;
initialisation as in its sec. 3.6 and released code. Jamba (Lieber et al., 2024, arXiv 2403.19887, sec. 6.4) normalises
the three parts of u W_x; so does Falcon Mamba (Zuo et al., 2024, arXiv 2410.05355, sec. 2), without learned scales.
"""

import math
from functools import partial
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from arch import config
from arch.layers import norm
from arch.layers.contract import Context, Output, SublayerConfig
from arch.layers.flops import Flops, Row, multiply_adds
from arch.layers.weight import constant, normal, weight
from arch.mixers import _recurrence
from arch.ops.norm import rms_norm
from arch.sharding.context import causal_conv
from arch.sharding.mesh import constrain
from arch.typing import Array, Float


@config.frozen
class Config(SublayerConfig):
    """Mamba-1.

    Attributes:
      inner_dim: channels of the state space, twice embed_dim in the paper.
      state_dim: states a channel (N in the paper).
      conv_width: taps of the convolution.
      dt_rank: rank of the projection to delta; 0 for embed_dim / 16, rounded up.
      dt_min: least initial step size.
      dt_max: greatest initial step size.
      inner_norms: RMSNorm of delta's low-rank form, of B and of C: 'none', with learned scales ('scaled', Jamba) or
        without ('plain', Falcon Mamba).
      epsilon: of these norms.
    """

    inner_dim: config.PositiveInt
    state_dim: config.PositiveInt = 16
    conv_width: config.PositiveInt = 4
    dt_rank: config.SizeOrZero = 0
    dt_min: config.PositiveFloat = 0.001
    dt_max: config.PositiveFloat = 0.1
    inner_norms: Literal["none", "plain", "scaled"] = "none"
    epsilon: config.PositiveFloat = 1e-6

    def check(self):
        if self.dt_min > self.dt_max:
            raise ValueError(f"dt_min={self.dt_min} must be at most dt_max={self.dt_max}")

    def make(self, name: str | None = None) -> "Mamba":
        """The Linen module."""
        return Mamba(self, name=name)

    def init_cache(self, batch: int, length: int, embed_dim: int, dtype: Any) -> dict[str, Array]:
        """The last inputs of the convolution [b w-1 f] and the state [b f state_dim], whatever the length."""
        return {
            "tail": jnp.zeros((batch, self.conv_width - 1, self.inner_dim), dtype),
            "state": jnp.zeros((batch, self.inner_dim, self.state_dim), jnp.float32),
        }

    def flops(self, row: Row) -> Flops:
        """Products, convolution and scan; the scan's are, for each state, delta A, a h + (delta x) B and C h."""
        d, f, n = row.embed_dim, self.inner_dim, self.state_dim
        products = 3 * d * f + 2 * f * (self.rank(d) + n)
        return multiply_adds(row.length * (products + self.conv_width * f + 3 * f * n))

    def rank(self, embed_dim: int) -> int:
        """Rank of the projection to delta, with the default resolved."""
        return self.dt_rank or -(-embed_dim // 16)


def decay_init(key, shape):
    """A_log whose A is -1 ... -N for each channel (S4D-real)."""
    return jnp.broadcast_to(jnp.log(jnp.arange(1, shape[1] + 1, dtype=jnp.float32)), shape)


def step_bias_init(low: float, high: float):
    """A bias whose softplus is log-uniform in [low, high]."""

    def init(key, shape):
        step = jnp.exp(jax.random.uniform(key, shape, minval=math.log(low), maxval=math.log(high)))
        return step + jnp.log(-jnp.expm1(-step))

    return init


class Mamba(nn.Module):
    """One Mamba layer; its cache does not grow with the length."""

    cfg: Config

    @nn.compact
    def __call__(self, x: Float[Array, "b t d"], context: Context, cache: dict | None = None) -> Output:
        cfg, d, f = self.cfg, x.shape[-1], self.cfg.inner_dim
        rank = cfg.rank(d)
        own = partial(weight, self, dtype=x.dtype)
        exact = partial(weight, self)  # what shapes the recurrence stays in float32

        u = constrain(x @ own("in", normal(d**-0.5), embed=d, hidden=f), "batch", "sequence", "hidden")
        z = constrain(x @ own("gate", normal(d**-0.5), embed=d, hidden=f), "batch", "sequence", "hidden")
        taps = exact("conv", normal(cfg.conv_width**-0.5), conv=cfg.conv_width, hidden=f)
        bias = exact("conv_bias", constant(0.0), hidden=f)
        tail = None if cache is None else cache["tail"]
        u, tail = causal_conv(u, taps, bias, tail=tail, segment_ids=context.segment_ids, valid=context.valid)
        u = jax.nn.silu(u)

        low = self._normed("dt", u @ own("dt_down", normal(f**-0.5), hidden=f, rank=rank))
        step = low @ own("dt_up", normal(rank**-0.5), rank=rank, hidden=f)
        step_bias = exact("dt_bias", step_bias_init(cfg.dt_min, cfg.dt_max), hidden=f)
        delta = jax.nn.softplus(step.astype(step_bias.dtype) + step_bias)
        if context.valid is not None:
            delta = jnp.where(context.valid[..., None], delta, 0.0)
        B = self._normed("B", u @ own("B", normal(f**-0.5), hidden=f, state=cfg.state_dim))
        C = self._normed("C", u @ own("C", normal(f**-0.5), hidden=f, state=cfg.state_dim))
        A = -jnp.exp(exact("A_log", decay_init, hidden=f, state=cfg.state_dim))
        D = exact("D", constant(1.0), hidden=f)
        state = None if cache is None else cache["state"]
        y, state = _recurrence.selective_scan(u, delta, A, B, C, D, state=state, reset=context.starts())

        out = (y * jax.nn.silu(z)) @ own("out", normal(f**-0.5), hidden=f, embed=d)
        return Output(out, None if cache is None else {"tail": tail, "state": state})

    def _normed(self, name, x):
        match self.cfg.inner_norms:
            case "none":
                return x
            case "plain":
                return rms_norm(x, jnp.ones(x.shape[-1]), epsilon=self.cfg.epsilon)
            case "scaled":
                return norm.Config(epsilon=self.cfg.epsilon).make(f"{name}_norm")(x)


EXAMPLES = (
    Config(inner_dim=10, state_dim=3),
    Config(inner_dim=6, state_dim=5, conv_width=2, dt_rank=3, inner_norms="scaled"),
    Config(inner_dim=6, state_dim=3, dt_rank=4, inner_norms="plain"),
)
