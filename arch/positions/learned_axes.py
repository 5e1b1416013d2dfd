"""A learned vector for each coordinate of a position on a grid, summed and added to the embedded token.

    sum_a W_a[i_a],    i = (..., row, column, ...) of the position in row-major order

Child et al., Generating Long Sequences with Sparse Transformers, 2019, arXiv 1904.10509, sec. 5.3: row, column and
channel of an image's values; of text and sound, row and column of a matrix as wide as the attention's stride.
"""

import math
from collections.abc import Callable
from typing import ClassVar

import jax.numpy as jnp

from arch import config
from arch.layers.contract import Position
from arch.layers.weight import normal
from arch.typing import Array, Float, Int


@config.frozen
class Config(Position):
    """Learned coordinates at the input: weights `axis_0` [shape[0] embed] and so on.

    A token at a position beyond the grid makes its row not-a-number, which no loss hides.

    Attributes:
      shape: of the grid, at least one axis.
      stddev: standard deviation of the initial entries.
    """

    shape: tuple[config.PositiveInt, ...]
    stddev: config.PositiveFloat = 0.02

    acts: ClassVar[str] = "input"

    def check(self):
        if not self.shape:
            raise ValueError("shape=() must have an axis")
        if self.max_length >= 2**31:
            raise ValueError(f"shape={self.shape} must be of less than {2**31} positions")

    @property
    def max_length(self) -> int:
        """Positions on the grid."""
        return math.prod(self.shape)

    def embed(self, own: Callable, positions: Int[Array, "b t"], embed_dim: int) -> Float[Array, "b t d"]:
        """The sums of the coordinates' rows."""
        on_grid = jnp.where((positions >= 0) & (positions < self.max_length), 0.0, jnp.nan)
        out = jnp.zeros((*positions.shape, embed_dim), jnp.float32) + on_grid[..., None]
        for axis, length in enumerate(self.shape):
            table = own(f"axis_{axis}", normal(self.stddev), length=length, embed=embed_dim)
            out += table[positions // math.prod(self.shape[axis + 1 :]) % length]
        return out


EXAMPLES = (Config(shape=(3, 4, 2)), Config(shape=(29,)))
