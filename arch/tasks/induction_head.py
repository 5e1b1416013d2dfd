"""The induction head's task: the letter that stood behind a sign when that sign was seen before.

    x_1 ... x_(i-1)  =>  x_(i+1) ... x_n  =>  ->  x_(i+1)

Fu, Dao, Saab, Thomas, Rudra, Re, "Hungry Hungry Hippos: Towards Language Modeling with State Space Models", 2022,
arXiv:2212.14052, sec. 3.1, after Olsson et al., 2022, arXiv:2209.11895; as drawn by its released code
(HazyResearch/safari, `icl_synthetics`, one sign a row): n letters, all alike, and the sign in the place of one of them,
never of the last two.
"""

from typing import Annotated

import numpy as np

from arch import config
from arch.tasks import _drawn
from arch.typing import Int


@config.frozen
class Config(_drawn.Task):
    """The induction head's task, with the paper's defaults.

    Attributes:
      vocab_size: symbols, two of which are no letters.
      length: symbols before the sign is seen again (n).
    """

    vocab_size: _drawn.VocabSize = 20
    length: Annotated[int, config.Range(3)] = 30

    @property
    def seq_len(self) -> int:
        """The letters, and the sign again."""
        return self.length + 1

    def draw(self, generator: np.random.Generator, count: int) -> Int[np.ndarray, "n t"]:
        """So many rows, ids [count seq_len + 1]."""
        rows, each = generator.integers(self.letters, size=(count, self.length + 2)), np.arange(count)
        places = generator.integers(self.length - 2, size=count)
        answers = rows[each, places + 1]
        rows[each, places] = rows[:, -2] = self.letters
        rows[:, -1] = answers
        return rows + 1
