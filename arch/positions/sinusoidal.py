"""Sines and cosines added to the embedded tokens (Vaswani et al., 2017, arXiv 1706.03762, sec. 3.5)."""

from collections.abc import Callable
from typing import ClassVar

from arch import config
from arch.layers.contract import Position
from arch.ops import sinusoidal
from arch.ops.rope import Pairing
from arch.typing import Array, Float, Int


@config.frozen
class Config(Position):
    """Sinusoidal positions at the input.

    Attributes:
      theta: the longest wavelength in turns.
      pairing: each sine beside its cosine ('interleaved', the paper), or all sines first ('halves', Marian).
    """

    theta: config.PositiveFloat = 10000.0
    pairing: Pairing = "interleaved"

    acts: ClassVar[str] = "input"

    def embed(self, own: Callable, positions: Int[Array, "b t"], embed_dim: int) -> Float[Array, "b t d"]:
        """The vectors of the positions."""
        return sinusoidal.embed(positions, embed_dim, theta=self.theta, pairing=self.pairing)


EXAMPLES = (Config(), Config(theta=100.0, pairing="halves"))
