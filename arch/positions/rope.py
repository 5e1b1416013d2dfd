"""Rotary positions inside attention (Su et al., RoFormer, 2021, arXiv 2104.09864)."""

from typing import ClassVar

import numpy as np

from arch import config
from arch.layers.contract import Position
from arch.ops import rope
from arch.typing import Array, Float, Int


@config.frozen
class Config(Position):
    """Rotary embedding of queries and keys.

    Attributes:
      theta: base of the wavelengths.
      fraction: share of each head's channels that turn, the first ones (GPT-NeoX: a quarter).
      pairing: which channels turn together: 'halves' as in GPT-NeoX and LLaMA, 'interleaved' as in the paper and GPT-J.
    """

    theta: config.PositiveFloat = 10000.0
    fraction: config.Fraction = 1.0
    pairing: rope.Pairing = "halves"

    acts: ClassVar[str] = "heads"

    def frequencies(self, channels: int) -> np.ndarray:
        """[channels / 2] radians a token, for so many channels that turn."""
        return rope.frequencies(channels, self.theta)

    @property
    def magnitude(self) -> float:
        """Factor of the turned channels of queries and keys alike."""
        return 1.0

    def rotate(self, x: Float[Array, "b t n h"], positions: Int[Array, "b t"]) -> Float[Array, "b t n h"]:
        """Each head turned by its token's position."""
        frequency = self.frequencies(int(x.shape[-1] * self.fraction) // 2 * 2)
        return rope.rotate(x, positions, frequency, pairing=self.pairing, magnitude=self.magnitude)


EXAMPLES = (Config(), Config(theta=500.0, fraction=0.5, pairing="interleaved"))
