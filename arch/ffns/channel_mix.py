"""Channel mixing of RWKV: a perceptron, gated or not, that also sees the token before.

    r, k = (mu * x_t + (1 - mu) * x_{t-1}) W, each with a mu and a W of its own
    y = sigmoid(r) * (relu(k)^2 W_value)

Peng et al., RWKV: Reinventing RNNs for the Transformer Era, 2023, arXiv 2305.13048, sec. 3.1, equations 18 and 19;
initial values as in `arch/mixers/rwkv4.py`. RWKV-7 has no gate (Peng et al., 2025, arXiv 2503.14456, sec. 4.2).
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
from arch.sharding.context import token_shift
from arch.sharding.mesh import constrain
from arch.typing import Array, Float


@config.frozen
class Config(SublayerConfig):
    """Channel mixing.

    Attributes:
      hidden_dim: hidden channels, four times embed_dim in the papers.
      gated: the result is multiplied by sigmoid(r).
    """

    hidden_dim: config.PositiveInt
    gated: bool = True

    def make(self, name: str | None = None) -> "ChannelMix":
        """The Linen module."""
        return ChannelMix(self, name=name)

    def init_cache(self, batch: int, length: int, embed_dim: int, dtype: Any) -> dict[str, Array]:
        """The last token [b d]."""
        return {"last": jnp.zeros((batch, embed_dim), dtype)}

    def flops(self, row: Row) -> Flops:
        """Two products, and a third for the gate."""
        return multiply_adds(row.length * row.embed_dim * (self.gated * row.embed_dim + 2 * self.hidden_dim))


class ChannelMix(nn.Module):
    """One channel mixing; its cache is the last token."""

    cfg: Config

    @nn.compact
    def __call__(self, x: Float[Array, "b t d"], context: Context, cache: dict | None = None) -> Output:
        d, f = x.shape[-1], self.cfg.hidden_dim
        own = partial(weight, self, dtype=x.dtype)
        last = None if cache is None else cache["last"]
        before, last = token_shift(x, last=last, reset=context.starts(), valid=context.valid)

        key = mixed(self, "key", x, before, power=0.5) @ own("key", normal(d**-0.5), embed=d, hidden=f)
        key = constrain(key, "batch", "sequence", "hidden")
        value = jnp.square(jax.nn.relu(key)) @ own("value", normal(f**-0.5), hidden=f, embed=d)
        cache = None if cache is None else {"last": last}
        if not self.cfg.gated:
            return Output(value, cache)
        receptance = mixed(self, "receptance", x, before, power=0.25)
        receptance = receptance @ own("receptance", normal(d**-0.5), embed=d, hidden=d)
        return Output(jax.nn.sigmoid(receptance) * value, cache)


EXAMPLES = (Config(hidden_dim=13), Config(hidden_dim=11, gated=False))
