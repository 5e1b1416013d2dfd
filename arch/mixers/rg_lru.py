"""The recurrent block of Griffin and Hawk: a convolution and a real-gated linear recurrent unit (RG-LRU), gated.

    u = conv(x W_x + b_x);   r = sigmoid(u W_r + b_r);   i = sigmoid(u W_i + b_i)
    a = exp(-8 r softplus(p));   h_t = a_t h_{t-1} + sqrt(1 - a_t^2) (i_t u_t)
    y = (h * gelu(x W_y + b_y)) W_out + b_out

De et al., Griffin: Mixing Gated Linear Recurrences with Local Attention for Efficient Language Models, 2024, arXiv
2402.19427, sec. 2.3 and 2.4. As in its released code, the gates' products are a block a head, and the first token of a
document, behind which nothing decays, is not scaled by the square root.
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
from arch.sharding.context import causal_conv
from arch.sharding.mesh import constrain
from arch.typing import Array, Float

SHARPNESS = 8.0
"""The paper's c: a is at least sigmoid(-p)^c."""


@config.frozen
class Config(SublayerConfig):
    """Griffin's recurrent block.

    Attributes:
      inner_dim: channels of the recurrence, 4/3 of embed_dim in the paper.
      num_heads: blocks of the gates' products.
      conv_width: taps of the convolution.
    """

    inner_dim: config.PositiveInt
    num_heads: config.PositiveInt = 1
    conv_width: config.PositiveInt = 4

    def check(self):
        if self.inner_dim % self.num_heads:
            raise ValueError(f"inner_dim={self.inner_dim} must be a multiple of num_heads={self.num_heads}")

    def make(self, name: str | None = None) -> "RgLru":
        """The Linen module."""
        return RgLru(self, name=name)

    def init_cache(self, batch: int, length: int, embed_dim: int, dtype: Any) -> dict[str, Array]:
        """The last inputs of the convolution [b w-1 f] and the state [b f], whatever the length."""
        return {
            "tail": jnp.zeros((batch, self.conv_width - 1, self.inner_dim), dtype),
            "state": jnp.zeros((batch, self.inner_dim), jnp.float32),
        }

    def flops(self, row: Row) -> Flops:
        """Products, convolution and recurrence."""
        d, f = row.embed_dim, self.inner_dim
        return multiply_adds(row.length * (3 * d * f + 2 * f * (f // self.num_heads) + self.conv_width * f + f))


def rate_init(key, shape):
    """p for which a decay at an open gate, exp(-8 softplus(p)), is uniform in [0.9, 0.999]."""
    decay = jax.random.uniform(key, shape, minval=0.9, maxval=0.999)
    return jnp.log(jnp.expm1(-jnp.log(decay) / SHARPNESS))


class RgLru(nn.Module):
    """One recurrent block; its cache does not grow with the length."""

    cfg: Config

    @nn.compact
    def __call__(self, x: Float[Array, "b t d"], context: Context, cache: dict | None = None) -> Output:
        cfg, d, f = self.cfg, x.shape[-1], self.cfg.inner_dim
        own, exact = partial(weight, self, dtype=x.dtype), partial(weight, self)

        def projected(name):
            kernel, bias = own(name, normal(d**-0.5), embed=d, hidden=f), own(f"{name}_bias", constant(0.0), hidden=f)
            return constrain(x @ kernel + bias, "batch", "sequence", "hidden")

        out_gate = jax.nn.gelu(projected("gate"), approximate=True)
        taps = exact("conv", normal(cfg.conv_width**-0.5), conv=cfg.conv_width, hidden=f)
        bias = exact("conv_bias", constant(0.0), hidden=f)
        tail = None if cache is None else cache["tail"]
        segments = dict(segment_ids=context.segment_ids, valid=context.valid)
        u, tail = causal_conv(projected("in"), taps, bias, tail=tail, **segments)

        log_decay = -SHARPNESS * self._gate("recurrence", u) * jax.nn.softplus(exact("rate", rate_init, hidden=f))
        decay, scaled = self._discretised(log_decay, self._gate("input", u) * u, context)
        h, state = _recurrence.linear_recurrence(decay, scaled, state=None if cache is None else cache["state"])
        out = (h.astype(x.dtype) * out_gate) @ own("out", normal(f**-0.5), hidden=f, embed=d)
        out += own("out_bias", constant(0.0), embed=d)
        return Output(out, None if cache is None else {"tail": tail, "state": state})

    def _gate(self, name, u):
        """A product for each head; what comes of it in float32."""
        n, h = self.cfg.num_heads, u.shape[-1] // self.cfg.num_heads
        kernel = weight(self, f"{name}_gate", normal(h**-0.5), dtype=u.dtype, heads=n, head_dim=h, state=h)
        bias = weight(self, f"{name}_gate_bias", constant(0.0), heads=n, head_dim=h)
        heads = u.reshape(*u.shape[:2], n, h)
        gates = jnp.einsum("btnh,nhg->btng", heads, kernel).astype(bias.dtype) + bias
        return jax.nn.sigmoid(gates).reshape(u.shape)

    def _discretised(self, log_decay, inputs, context):
        """What each token keeps and what it adds, where documents start and rows have ended too."""
        first = (context.positions == 0)[..., None]
        squared = jnp.maximum(-jnp.expm1(2 * log_decay), jnp.finfo(jnp.float32).tiny)  # its root has a gradient
        scale = jnp.where(first, 1, jnp.sqrt(squared))
        decay, added = jnp.where(first, 0, jnp.exp(log_decay)), scale * inputs
        if context.valid is None:
            return decay, added
        return (jnp.where(context.valid[..., None], new, old) for new, old in ((decay, 1), (added, 0)))


EXAMPLES = (Config(inner_dim=10, num_heads=2),)
