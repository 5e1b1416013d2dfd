"""Normalisation layer: LayerNorm or RMSNorm with their learned scale (and shift)."""

from typing import Literal

import flax.linen as nn

from arch import config
from arch.layers.weight import constant, weight
from arch.ops import norm
from arch.typing import Array, Float


@config.frozen
class Config(config.Config):
    """Which norm.

    Attributes:
      kind: 'rms' (no centring, no shift) or 'layer'.
      epsilon: added to the variance.
      bias: a learned shift; LayerNorm only.
    """

    kind: Literal["rms", "layer"] = "rms"
    epsilon: config.PositiveFloat = 1e-6
    bias: bool = False

    def check(self):
        if self.bias and self.kind == "rms":
            raise ValueError("bias=True must go with kind='layer': RMSNorm has no shift")

    def make(self, name: str | None = None) -> "Norm":
        """The Linen module."""
        return Norm(self, name=name)


class Norm(nn.Module):
    """x -> norm(x) over the last axis."""

    cfg: Config

    @nn.compact
    def __call__(self, x: Float[Array, "*b d"]) -> Float[Array, "*b d"]:
        d = x.shape[-1]
        scale = weight(self, "scale", constant(1.0), embed=d)
        if self.cfg.kind == "rms":
            return norm.rms_norm(x, scale, epsilon=self.cfg.epsilon)
        bias = weight(self, "bias", constant(0.0), embed=d) if self.cfg.bias else None
        return norm.layer_norm(x, scale, bias, epsilon=self.cfg.epsilon)
