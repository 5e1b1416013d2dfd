"""Two-layer perceptron on each token: W_2 act(W_1 x) (Vaswani et al., 2017, arXiv 1706.03762, eq. 2)."""

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
    """MLP.

    Attributes:
      hidden_dim: hidden channels, four times embed_dim in the paper.
      activation: the nonlinearity.
      bias: learned shifts after both products.
    """

    hidden_dim: config.PositiveInt
    activation: Activation = "gelu"
    bias: bool = False

    def make(self, name: str | None = None) -> "Mlp":
        """The Linen module."""
        return Mlp(self, name=name)

    def flops(self, row: Row) -> Flops:
        """Two products."""
        return multiply_adds(2 * row.length * row.embed_dim * self.hidden_dim)


class Mlp(nn.Module):
    """W_2 act(W_1 x)."""

    cfg: Config

    @nn.compact
    def __call__(self, x: Float[Array, "b t d"], context: Context, cache: None = None) -> Output:
        cfg, d = self.cfg, x.shape[-1]
        own, product = partial(weight, self, dtype=x.dtype), partial(linear, platform=platform())
        hidden = product(x, own("up", normal(d**-0.5), embed=d, hidden=cfg.hidden_dim))
        if cfg.bias:
            hidden += own("up_bias", constant(0.0), hidden=cfg.hidden_dim)
        hidden = constrain(hidden, "batch", "sequence", "hidden")

        @partial(jax.checkpoint, prevent_cse=False)  # the backward pass keeps `hidden`, not what comes of it
        def activate_and_multiply(hidden, kernel):
            return product(ACTIVATIONS[cfg.activation](hidden), kernel)

        kernel = own("down", normal(cfg.hidden_dim**-0.5), hidden=cfg.hidden_dim, embed=d)
        out = activate_and_multiply(hidden, kernel)
        return Output(out + own("down_bias", constant(0.0), embed=d) if cfg.bias else out)


EXAMPLES = (Config(hidden_dim=13), Config(hidden_dim=6, activation="relu_squared", bias=True))
