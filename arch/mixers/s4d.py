"""S4D: a diagonal state space a channel, the same at every token, behind it a GELU and a gated product over channels.

    u = gelu(s4d(x, delta, A, C, D));   y = (u W + b) * sigmoid(u W_gate + b_gate)

Gu, Gupta, Goel, Re, On the Parameterization and Initialization of Diagonal State Space Models, 2022, arXiv 2206.11893,
sec. 3 and 4 (S4D-Lin, S4D-Inv); the layer around it is that of its released code and of S4 (Gu et al., 2021, arXiv
2111.00396). The ancestor of Mamba, whose step sizes and readings depend on the token.
"""

from functools import partial
from typing import Any, ClassVar, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from arch import config
from arch.layers.contract import Context, Output, SublayerConfig
from arch.layers.flops import Flops, Row, multiply_adds
from arch.layers.weight import constant, normal, weight
from arch.ops import s4d
from arch.ops.long_conv import transform_multiply_adds
from arch.sharding.mesh import constrain
from arch.typing import Array, Float


@config.frozen
class Config(SublayerConfig):
    """S4D. It has as many channels as the residual stream.

    Attributes:
      num_states: states a channel (N in the paper), half of them complex and the others their conjugates.
      initial: the rates that channels start with, S4D-Lin or S4D-Inv.
      dt_min: least initial step size.
      dt_max: greatest initial step size.
    """

    num_states: config.PositiveInt = 64
    initial: Literal["lin", "inv"] = "lin"
    dt_min: config.PositiveFloat = 0.001
    dt_max: config.PositiveFloat = 0.1

    transforms: ClassVar[bool] = True

    def check(self):
        if self.num_states % 2:
            raise ValueError(f"num_states={self.num_states} must be a multiple of 2")
        if self.dt_min > self.dt_max:
            raise ValueError(f"dt_min={self.dt_min} must be at most dt_max={self.dt_max}")

    def lacks(self) -> tuple[str, ...]:
        """A convolution by transforms goes over all of a row."""
        return ("context",)

    def make(self, name: str | None = None) -> "S4D":
        """The Linen module."""
        return S4D(self, name=name)

    def init_cache(self, batch: int, length: int, embed_dim: int, dtype: Any) -> dict[str, Array]:
        """The state [b d num_states/2], whatever the length."""
        return {"state": jnp.zeros((batch, embed_dim, self.num_states // 2), jnp.complex64)}

    def flops(self, row: Row) -> Flops:
        """Two products and the recurrence: for each complex state a h, b x and C h; executed: two transforms."""
        around = 2 * row.length * row.embed_dim**2
        recurrence = 4 * row.length * row.embed_dim * self.num_states
        transforms = 2 * row.embed_dim * transform_multiply_adds(row.length)
        return multiply_adds(around + recurrence, executed=around + (recurrence if row.length == 1 else transforms))


def step_init(low: float, high: float):
    """Logarithms of step sizes, uniform."""
    return lambda key, shape: jax.random.uniform(key, shape, minval=jnp.log(low), maxval=jnp.log(high))


class S4D(nn.Module):
    """One S4D layer; its cache does not grow with the length."""

    cfg: Config

    @nn.compact
    def __call__(self, x: Float[Array, "b t d"], context: Context, cache: dict | None = None) -> Output:
        cfg, d, n = self.cfg, x.shape[-1], self.cfg.num_states // 2
        own, exact = partial(weight, self, dtype=x.dtype), partial(weight, self)  # the recurrence stays in float32
        rates = s4d.initial(cfg.initial, cfg.num_states)
        alike = lambda value: lambda key, shape: jnp.broadcast_to(value, shape)
        decay = jnp.exp(exact("decay", alike(jnp.log(-rates.real)), hidden=d, state=n))
        A = jax.lax.complex(-decay, exact("frequency", alike(rates.imag), hidden=d, state=n))
        C = jax.lax.complex(*(exact(name, normal(0.5**0.5), hidden=d, state=n) for name in ("C", "C_imaginary")))
        delta = jnp.exp(exact("step", step_init(cfg.dt_min, cfg.dt_max), hidden=d))

        state = None if cache is None else cache["state"]
        places = dict(state=state, reset=context.starts(), valid=context.valid)
        u, state = s4d.s4d(x, delta, A, C, exact("D", normal(1.0), hidden=d), **places)
        u = constrain(jax.nn.gelu(u, approximate=False), "batch", "sequence", "hidden")
        product = lambda name: u @ own(name, normal(d**-0.5), hidden=d, embed=d)
        gate = jax.nn.sigmoid(product("gate") + own("gate_bias", constant(0.0), embed=d))
        out = (product("out") + own("out_bias", constant(0.0), embed=d)) * gate
        return Output(out, None if cache is None else {"state": state})


EXAMPLES = (Config(num_states=6),)
