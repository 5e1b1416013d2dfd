"""Multi-query associative recall (MQAR): the values of keys, each asked for somewhere behind all pairs.

    k_1 v_1  k_2 v_2 ... k_p v_p  . .  k_3  ->  v_3  . .  k_1  ->  v_1  . . .

Arora, Eyuboglu, Timalsina, Johnson, Poli, Zou, Rudra, Re, "Zoology: Measuring and Improving Recall in Efficient
Language Models", 2023, arXiv:2312.04927, sec. 3 and app. A, as drawn by its released code (HazyResearch/zoology,
`mqar`): the keys of a row differ, its values too; each key is asked for once, at one of the g = 1, 2, ... pairs of
places behind the pairs, without replacement with chances proportional to g^(a - 1), so that most questions follow soon.
Here an answer stands behind its question, where the released code has a filler and the answer as a label alone; no key
is asked for twice, so that it tells nothing of later answers.
"""

import numpy as np

from arch import config
from arch.tasks import _drawn
from arch.typing import Bool, Int


@config.frozen
class Config(_drawn.Task):
    """Multi-query associative recall, with the shortest rows of the paper's figure 2.

    Attributes:
      vocab_size: symbols, two of which are no letters; of these the first half are keys.
      length: symbols of a row.
      pairs: of a key and its value, in a row (p).
      power: of the law of the gaps (a).
    """

    vocab_size: _drawn.VocabSize = 8192
    length: config.PositiveInt = 64
    pairs: config.PositiveInt = 4
    power: config.PositiveFloat = 0.01

    def check(self):
        if self.length % 2 or self.length < 4 * self.pairs:
            raise ValueError(f"length={self.length} must be even, and at least 4 pairs={4 * self.pairs}")
        if self.pairs > self.letters // 2:
            raise ValueError(f"pairs={self.pairs} must be at most the number of keys, {self.letters // 2}")

    @property
    def seq_len(self) -> int:
        """All symbols but the last."""
        return self.length - 1

    def draw(self, generator: np.random.Generator, count: int) -> Int[np.ndarray, "n t"]:
        """So many rows, ids [count length]."""
        num_keys, spots = self.letters // 2, (self.length - 2 * self.pairs) // 2
        keys = 1 + _distinct(generator, count, np.zeros(num_keys), self.pairs)
        values = 1 + num_keys + _distinct(generator, count, np.zeros(self.letters - num_keys), self.pairs)
        gaps = _distinct(generator, count, (self.power - 1) * np.log(1 + np.arange(spots)), self.pairs)
        rows = np.zeros((count, self.length), np.int64)
        rows[:, : 2 * self.pairs] = np.stack([keys, values], axis=2).reshape(count, -1)
        np.put_along_axis(rows, 2 * (self.pairs + gaps), keys, axis=1)
        np.put_along_axis(rows, 2 * (self.pairs + gaps) + 1, values, axis=1)
        return rows

    def answers(self, rows: Int[np.ndarray, "n t"]) -> Bool[np.ndarray, "n t"]:
        """The values behind the pairs."""
        return (rows > self.letters // 2) & (np.arange(rows.shape[1]) >= 2 * self.pairs)


def _distinct(generator: np.random.Generator, count: int, logits: np.ndarray, size: int) -> Int[np.ndarray, "n s"]:
    """[count size] rows of different indices, drawn one after another with chances proportional to exp(logits)."""
    drawn = []
    for start in range(0, count, ROWS_AT_ONCE):
        lots = logits + generator.gumbel(size=(min(ROWS_AT_ONCE, count - start), len(logits)))
        drawn.append(np.argsort(-lots, axis=1)[:, :size])
    return np.concatenate(drawn)


ROWS_AT_ONCE = 4096
"""So that the paper's 100,000 rows of 4095 keys do not take 3 GB."""
