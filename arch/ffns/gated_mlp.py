"""Gated perceptron on each token: W_down (act(W_gate x) * W_up x).

SwiGLU (silu), GeGLU (gelu), ReGLU (relu), the original GLU (sigmoid): Shazeer, 2020, arXiv 2002.05202, eq. 5-6.
"""

from functools import partial

import flax.linen as nn
import jax

from arch import config
from arch.layers.contract import Context, Output, SublayerConfig
from arch.layers.flops import Flops, Row, multiply_adds
from arch.layers.weight import constant, normal, weight
from arch.ops.activation import ACTIVATIONS, Activation
from arch.ops.linear import linear
from arch.sharding.mesh import constrain, platform
from arch.typing import Array, Float


@config.frozen
class Config(SublayerConfig):
    """Gated MLP.

    Attributes:
      hidden_dim: hidden channels; 8/3 of embed_dim has as many weights as an MLP of four times embed_dim.
      activation: of the gate; 'silu' makes it SwiGLU.
      bias: learned shifts after the three products.
    """

    hidden_dim: config.PositiveInt
    activation: Activation = "silu"
    bias: bool = False

    def make(self, name: str | None = None) -> "GatedMlp":
        """The Linen module."""
        return GatedMlp(self, name=name)

    def flops(self, row: Row) -> Flops:
        """Three products."""
        return multiply_adds(3 * row.length * row.embed_dim * self.hidden_dim)


class GatedMlp(nn.Module):
    """W_down (act(W_gate x) * W_up x)."""

    cfg: Config

    @nn.compact
    def __call__(self, x: Float[Array, "b t d"], context: Context, cache: None = None) -> Output:
        cfg, d = self.cfg, x.shape[-1]
        own, product = partial(weight, self, dtype=x.dtype), partial(linear, platform=platform())
        gate = product(x, own("gate", normal(d**-0.5), embed=d, hidden=cfg.hidden_dim))
        up = product(x, own("up", normal(d**-0.5), embed=d, hidden=cfg.hidden_dim))
        if cfg.bias:
            gate += own("gate_bias", constant(0.0), hidden=cfg.hidden_dim)
            up += own("up_bias", constant(0.0), hidden=cfg.hidden_dim)

        @partial(jax.checkpoint, prevent_cse=False)  # the backward pass keeps `gate` and `up`, not what comes of them
        def gate_and_multiply(gate, up, kernel):
            return product(constrain(ACTIVATIONS[cfg.activation](gate) * up, "batch", "sequence", "hidden"), kernel)

        kernel = own("down", normal(cfg.hidden_dim**-0.5), hidden=cfg.hidden_dim, embed=d)
        out = gate_and_multiply(gate, up, kernel)
        return Output(out + own("down_bias", constant(0.0), embed=d) if cfg.bias else out)


EXAMPLES = (Config(hidden_dim=7), Config(hidden_dim=12, activation="gelu", bias=True))
