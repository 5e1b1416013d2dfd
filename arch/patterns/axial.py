"""Rows and columns of a grid (Ho et al., Axial Attention in Multidimensional Transformers, 2019, arXiv 1912.12180)."""

import math

from arch import config
from arch.ops.patterns import Pattern, axial
from arch.patterns._pattern import PatternConfig


@config.frozen
class Config(PatternConfig):
    """Tokens of a grid, in row-major order, see those that differ in one coordinate only.

    Attributes:
      shape: of the grid.
    """

    shape: tuple[config.PositiveInt, ...]

    def check(self):
        if not self.shape:
            raise ValueError("shape=() must have an axis")
        if math.prod(self.shape) >= 2**31:
            raise ValueError(f"shape={self.shape} must be of less than {2**31} tokens")

    def make(self, num_heads: int) -> Pattern:
        return axial(*self.shape)
