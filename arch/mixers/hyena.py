"""Hyena: gates in turn with convolutions as long as the row, whose filters are what a small network says of each lag.

    z, x_1 ... x_N = conv(x W + b);    z <- h_n conv (x_n z) + D_n x_n z   for n = 1 ... N - 1;    y = (x_N z) W_out + b
    h_n(lag) = (exp(-rate lag / L) + floor) network(lag / L, cos and sin of 2 pi k lag / L for k = 0 ... K - 1)_n

Poli et al., Hyena Hierarchy: Towards Larger Convolutional Language Models, 2023, arXiv 2302.10866, sec. 3.1 (definition
3.1, whose first filter is the short convolution here, as in its app. A.2 and its released code), 3.3 and app. D.3. The
filters' products start at 0.02 as in that code; there the cosines and sines are trained too, here they are fixed.

It has no state of fixed size. The cache keeps the inputs of the long convolutions, (N - 1) d numbers a token, so that
a new token costs (N - 1) d multiply-adds for each token before it, and the filters at as many lags besides, once for
all rows.
"""

import math
from functools import partial
from typing import Any, ClassVar

import flax.linen as nn
import jax.numpy as jnp

from arch import config
from arch.layers.contract import Context, Output, SublayerConfig
from arch.layers.flops import Flops, Row, multiply_adds
from arch.layers.weight import constant, normal, weight
from arch.ops.cache import slots
from arch.ops.causal_conv import causal_conv
from arch.ops.long_conv import long_conv, long_conv_at, transform_multiply_adds
from arch.sharding.mesh import constrain
from arch.typing import Array, Float


@config.frozen
class Config(SublayerConfig):
    """Hyena.

    Attributes:
      max_length: tokens over which filters and their windows stretch (L); they go on the same way at later lags.
      order: gates (N), one more than long convolutions.
      filter_dim: hidden channels of the filters' network.
      bands: frequencies that it reads (K).
      frequency: how fast its sines turn at first.
      conv_width: taps of the short convolution.
      fast: share of L in which the window of the fastest channel falls to 1 %.
      slow: that of the slowest.
      floor: what is added to the windows.
    """

    max_length: config.PositiveInt
    order: config.PositiveInt = 2
    filter_dim: config.PositiveInt = 64
    bands: config.PositiveInt = 16
    frequency: config.PositiveFloat = 14.0
    conv_width: config.PositiveInt = 3
    fast: config.PositiveFloat = 0.3
    slow: config.PositiveFloat = 1.5
    floor: config.NonNegativeFloat = 0.0

    transforms: ClassVar[bool] = True

    def check(self):
        if self.order < 2:
            raise ValueError(f"order={self.order} must be at least 2: one gate less is the number of long convolutions")

    @property
    def filters(self) -> int:
        """Long convolutions."""
        return self.order - 1

    def make(self, name: str | None = None) -> "Hyena":
        """The Linen module."""
        return Hyena(self, name=name)

    def init_cache(self, batch: int, length: int, embed_dim: int, dtype: Any) -> dict[str, Array]:
        """The short convolution's last inputs, those of the long ones [b N-1 length d], and tokens a row holds."""
        return {
            "tail": jnp.zeros((batch, self.conv_width - 1, (self.order + 1) * embed_dim), dtype),
            "inputs": jnp.zeros((batch, self.filters, length, embed_dim), dtype),
            "length": jnp.zeros((batch,), jnp.int32),
        }

    def flops(self, row: Row) -> Flops:
        """Products, the short convolution, two transforms for each long one; not the filters, which all rows share."""
        d, wide = row.embed_dim, (self.order + 1) * row.embed_dim
        around = row.length * (d * wide + self.conv_width * wide + d * d)
        return multiply_adds(around + 2 * self.filters * d * transform_multiply_adds(row.length))

    def lacks(self) -> tuple[str, ...]:
        """A convolution by transforms goes over all of a row, whatever is packed into it."""
        return "segments", "context"


class Hyena(nn.Module):
    """One Hyena layer; its cache grows with the length, as attention's does."""

    cfg: Config

    @nn.compact
    def __call__(self, x: Float[Array, "b t d"], context: Context, cache: dict | None = None) -> Output:
        cfg, (t, d) = self.cfg, x.shape[1:]
        wide, own = (cfg.order + 1) * d, partial(weight, self, dtype=x.dtype)
        u = x @ own("in", normal(d**-0.5), embed=d, hidden=wide) + own("in_bias", constant(0.0), hidden=wide)
        taps = weight(self, "conv", normal(cfg.conv_width**-0.5), conv=cfg.conv_width, hidden=wide)
        bias = weight(self, "conv_bias", constant(0.0), hidden=wide)
        tail = None if cache is None else cache["tail"]
        u, tail = causal_conv(constrain(u, "batch", "sequence", "hidden"), taps, bias, tail=tail, valid=context.valid)
        z, *gates = jnp.split(u, cfg.order + 1, axis=-1)

        convolved, kept = self._convolutions(t, d, context, cache)
        skips = own("skip", normal(1.0), conv=cfg.filters, embed=d)
        for n, gate in enumerate(gates[:-1]):
            z = gate * z
            z = convolved(n, z) + skips[n] * z
        out = (gates[-1] * z) @ own("out", normal(d**-0.5), hidden=d, embed=d) + own("out_bias", constant(0.0), embed=d)
        return Output(out, None if cache is None else {"tail": tail} | kept)

    def _convolutions(self, t, d, context, cache):
        """(the n-th long convolution of z [b t d], what the cache is to keep: filled as that is called)."""
        filters = Filters(self.cfg, name="filter")(t if cache is None else cache["inputs"].shape[2], d)
        if cache is None:
            return lambda n, z: long_conv(z, filters[n]), {}
        rows, valid = jnp.arange(len(cache["length"]))[:, None], context.valid
        valid = jnp.ones((len(rows), t), bool) if valid is None else valid
        place, length = slots(cache["length"], valid, cache["inputs"].shape[2])
        kept = {"inputs": cache["inputs"], "length": length}

        def convolved(n, z):
            kept["inputs"] = kept["inputs"].at[rows, n, place].set(z.astype(kept["inputs"].dtype), mode="drop")
            return long_conv_at(kept["inputs"][:, n], filters[n], place).astype(z.dtype)

        return convolved, kept


class Filters(nn.Module):
    """The filters at lags 0 ... length - 1, in float32."""

    cfg: Config

    @nn.compact
    def __call__(self, length: int, d: int) -> Float[Array, "n t d"]:
        cfg, own, f = self.cfg, partial(weight, self), self.cfg.filter_dim
        lag = jnp.arange(length, dtype=jnp.float32)[:, None] / cfg.max_length
        angle = 2 * math.pi * lag * jnp.arange(cfg.bands)
        x = jnp.concatenate([lag, jnp.cos(angle), jnp.sin(angle)], axis=-1)
        frequency = own("frequency", constant(cfg.frequency), state=f)
        for i in range(3):
            kernel = own(f"product_{i}", normal(0.02), rank=x.shape[-1], state=f)
            x = jnp.sin(frequency * (x @ kernel + own(f"bias_{i}", constant(0.0), state=f)))
        x = jnp.einsum("tf,fnd->ntd", x, own("out", normal(0.02), rank=f, conv=cfg.filters, embed=d))
        rate = -math.log(0.01) * jnp.linspace(1 / cfg.slow, 1 / cfg.fast, d)
        return x * (jnp.exp(-rate * lag) + cfg.floor)


EXAMPLES = (Config(max_length=16, filter_dim=2, bands=2),)
