"""Time mixing of RWKV-4: a gated average of past values whose weights decay at a rate a channel.

    r, k, v = (mu * x_t + (1 - mu) * x_{t-1}) W, each with a mu and a W of its own
    y = (sigmoid(r) * wkv(k, v, w, u)) W_out,     w = exp(decay)

Peng et al., RWKV: Reinventing RNNs for the Transformer Era, 2023, arXiv 2305.13048, sec. 3.1. Its initial values differ
from layer to layer (app. E); here every layer starts as the one in the middle does, and products start normal and not
orthogonal.
"""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from arch import config
from arch.layers.contract import Context, Output, SublayerConfig
from arch.layers.flops import Flops, Row, multiply_adds
from arch.layers.token_mix import mixed
from arch.layers.weight import normal, weight
from arch.mixers import _recurrence
from arch.ops import wkv
from arch.sharding.context import token_shift
from arch.sharding.mesh import constrain
from arch.typing import Array, Float


@config.frozen
class Config(SublayerConfig):
    """Time mixing of RWKV-4. It has as many channels as the residual stream, each a head of its own."""

    def make(self, name: str | None = None) -> "Rwkv4":
        """The Linen module."""
        return Rwkv4(self, name=name)

    def init_cache(self, batch: int, length: int, embed_dim: int, dtype: Any) -> dict[str, Array]:
        """The last token [b d] and the sums of `wkv.State` [b d], whatever the length."""
        return {"last": jnp.zeros((batch, embed_dim), dtype)} | wkv.empty(batch, embed_dim)._asdict()

    def flops(self, row: Row) -> Flops:
        """Four products; the sums, for each channel, of numerator and denominator, to be read and to be kept."""
        return multiply_adds(row.length * (4 * row.embed_dim**2 + 4 * row.embed_dim))


def decay_init(key, shape):
    """Logarithms of decays: from -5 in the first channel on to 3 in the last."""
    return -5 + 8 * (jnp.arange(shape[0], dtype=jnp.float32) / max(1, shape[0] - 1)) ** 1.35


def bonus_init(key, shape):
    """log 0.3, with 0, 1/2 and -1/2 more in turn."""
    return jnp.log(0.3) + ((jnp.arange(shape[0]) + 1) % 3 - 1) * 0.5


class Rwkv4(nn.Module):
    """One time mixing; its cache does not grow with the length."""

    cfg: Config

    @nn.compact
    def __call__(self, x: Float[Array, "b t d"], context: Context, cache: dict | None = None) -> Output:
        d, reset = x.shape[-1], context.starts()
        own, exact = partial(weight, self, dtype=x.dtype), partial(weight, self)
        last = None if cache is None else cache["last"]
        before, last = token_shift(x, last=last, reset=reset, valid=context.valid)

        def projected(name, power):
            out = mixed(self, name, x, before, power=power) @ own(name, normal(d**-0.5), embed=d, hidden=d)
            return constrain(out, "batch", "sequence", "hidden")

        receptance, key, value = projected("receptance", 0.25), projected("key", 0.5), projected("value", 0.5)
        decay, bonus = jnp.exp(exact("decay", decay_init, hidden=d)), exact("bonus", bonus_init, hidden=d)
        state = None if cache is None else wkv.State(*(cache[name] for name in wkv.State._fields))
        y, state = _recurrence.wkv(key, value, decay, bonus, state=state, reset=reset, valid=context.valid)
        out = (jax.nn.sigmoid(receptance) * y) @ own("out", normal(d**-0.5), hidden=d, embed=d)
        return Output(out, None if cache is None else {"last": last} | state._asdict())


EXAMPLES = (Config(),)
