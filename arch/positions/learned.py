"""A learned vector for each position, added to the embedded token.

Gehring et al., Convolutional Sequence to Sequence Learning, 2017, arXiv 1705.03122, sec. 3.1; GPT-2, BERT.
"""

from collections.abc import Callable
from typing import ClassVar

import jax.numpy as jnp

from arch import config
from arch.layers.contract import Position
from arch.layers.weight import normal
from arch.typing import Array, Float, Int


@config.frozen
class Config(Position):
    """Learned positions at the input: a weight `table` [length embed].

    A token at a position beyond the table makes its row not-a-number, which no loss hides.

    Attributes:
      length: rows of the table.
      offset: the row of position 0; RoBERTa and OPT leave the first two unused.
      stddev: standard deviation of the initial entries.
    """

    length: config.PositiveInt
    offset: config.SizeOrZero = 0
    stddev: config.PositiveFloat = 0.02

    acts: ClassVar[str] = "input"

    def check(self):
        if self.offset >= self.length:
            raise ValueError(f"offset={self.offset} must be below length={self.length}")

    @property
    def max_length(self) -> int:
        """Positions that have a row."""
        return self.length - self.offset

    def embed(self, own: Callable, positions: Int[Array, "b t"], embed_dim: int) -> Float[Array, "b t d"]:
        """The rows of the positions."""
        table = own("table", normal(self.stddev), length=self.length, embed=embed_dim)
        return table.at[positions + self.offset].get(mode="fill", fill_value=jnp.nan)


EXAMPLES = (Config(length=23), Config(length=25, offset=2))
