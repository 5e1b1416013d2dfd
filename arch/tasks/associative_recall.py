"""Associative recall: the value that a key has had earlier in the row.

    k_1 v(k_1)  k_2 v(k_2)  ...  k_p v(k_p)  =>  k  ->  v(k)        k: one of k_1 ... k_p

Fu, Dao, Saab, Thomas, Rudra, Re, "Hungry Hungry Hippos: Towards Language Modeling with State Space Models", 2022,
arXiv:2212.14052, sec. 3.1; as drawn by its released code (HazyResearch/safari, `icl_synthetics`, one key a pair). The
first half of the letters are keys and the others values, each row has a map of its own from keys to values, with
repetition, and its keys are drawn with repetition too; each different key that the row has is asked for alike.
"""

import numpy as np

from arch import config
from arch.tasks import _drawn
from arch.typing import Int


@config.frozen
class Config(_drawn.Task):
    """Associative recall, with the paper's defaults.

    Attributes:
      vocab_size: symbols, two of which are no letters.
      pairs: of a key and its value, in a row.
    """

    vocab_size: _drawn.VocabSize = 10
    pairs: config.PositiveInt = 10

    @property
    def seq_len(self) -> int:
        """The pairs, what asks, and the key."""
        return 2 * self.pairs + 2

    def draw(self, generator: np.random.Generator, count: int) -> Int[np.ndarray, "n t"]:
        """So many rows, ids [count seq_len + 1]."""
        num_keys, each = self.letters // 2, np.arange(count)[:, None]
        values = generator.integers(num_keys, self.letters, (count, num_keys))
        keys = generator.integers(num_keys, size=(count, self.pairs))
        lots = np.zeros((count, num_keys))
        lots[each, keys] = 1
        asked = np.argmax(lots * generator.uniform(0.5, 1, lots.shape), axis=1)[:, None]
        pairs = np.stack([keys, values[each, keys]], axis=2).reshape(count, -1)
        ask = np.full((count, 1), self.letters)
        return np.concatenate([pairs, ask, asked, values[each, asked]], axis=1) + 1
