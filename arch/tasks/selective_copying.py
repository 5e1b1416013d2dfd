"""Selective copying: the letters of a row, in order, without the noise between them.

    . . x_1 . x_2 x_3 . . ... x_m .  =>  x_1 x_2 ... x_m           . is noise, the x_i at random places

Gu, Dao, "Mamba: Linear-Time Sequence Modeling with Selective State Spaces", 2023, arXiv:2312.00752, sec. 3.1 and 4.1.1,
after Jing et al., "Gated Orthogonal Recurrent Units", 2017, arXiv:1706.02761. The letters are drawn with repetition,
all alike, and all sets of places alike. The paper's generator was not released: here the answers follow the sign as the
words of a text would, so that each is read before the next is asked for.
"""

from typing import Annotated

import numpy as np

from arch import config
from arch.tasks import _drawn
from arch.typing import Bool, Int


@config.frozen
class Config(_drawn.Task):
    """Selective copying, with the paper's defaults: 16 symbols with the noise, and one more that asks.

    Attributes:
      vocab_size: symbols, two of which are no letters.
      length: symbols before the sign, noise and letters.
      letters_copied: how many of them are letters (m).
    """

    vocab_size: _drawn.VocabSize = 17
    length: Annotated[int, config.Range(2)] = 4096
    letters_copied: config.PositiveInt = 16

    def check(self):
        if self.letters_copied > self.length:
            raise ValueError(f"letters_copied={self.letters_copied} must be at most length={self.length}")

    @property
    def seq_len(self) -> int:
        """What is before the sign, the sign, and all answers but the last."""
        return self.length + self.letters_copied

    def draw(self, generator: np.random.Generator, count: int) -> Int[np.ndarray, "n t"]:
        """So many rows, ids [count seq_len + 1]."""
        lots = generator.random((count, self.length))
        places = np.sort(np.argpartition(lots, self.letters_copied - 1, axis=1)[:, : self.letters_copied], axis=1)
        copied = 1 + generator.integers(self.letters, size=places.shape)
        rows = np.zeros((count, self.length), np.int64)
        np.put_along_axis(rows, places, copied, axis=1)
        return np.concatenate([rows, np.full((count, 1), self.letters + 1), copied], axis=1)

    def answers(self, rows: Int[np.ndarray, "n t"]) -> Bool[np.ndarray, "n t"]:
        """All that is behind the sign."""
        return np.broadcast_to(np.arange(rows.shape[1]) > self.length, rows.shape)
