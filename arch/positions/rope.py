"""Rotary positions inside attention (Su et al., RoFormer, 2021, arXiv 2104.09864)."""

from arch import config
from arch.layers.contract import Position
from arch.ops import rope
from arch.typing import Array, Float, Int


@config.frozen
class Config(Position):
    """Rotary embedding of queries and keys.

    Attributes:
      theta: base of the wavelengths.
      fraction: share of each head's channels that turn.
    """

    theta: config.PositiveFloat = 10000.0
    fraction: config.Fraction = 1.0

    def rotate(self, x: Float[Array, "b t n h"], positions: Int[Array, "b t"]) -> Float[Array, "b t n h"]:
        """Each head turned by its token's position."""
        return rope.rotate(x, positions, theta=self.theta, fraction=self.fraction)


EXAMPLES = (Config(), Config(theta=500.0, fraction=0.5))
