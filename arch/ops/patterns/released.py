"""The random blocks that BigBird's released code draws, to the same numbers: published weights were trained with them.

Zaheer et al., Big Bird, 2020, arXiv 2007.14062, sec. 2, lets a block draw from the whole row. Its code draws r blocks
from the row's first 2 r + 5, and in rows of the paper's own lengths from the first 1024 tokens. The generator is
NumPy's of before 1.17, whose numbers never change, seeded with the layer's number.
"""

import dataclasses

import numpy as np

from arch.ops.patterns.pattern import Pattern
from arch.ops.patterns.rows import Rows

PAPER_LENGTHS = (1024, 3072, 4096)
"""Tokens of rows, in whole blocks, that draw as in the paper's runs. Google's code has 2048 too, transformers not."""
PAPER_REACH = 1024
"""Tokens from which these draw."""


@dataclasses.dataclass(frozen=True)
class ReleasedBlocks(Pattern):
    """`count` random blocks of `size` keys for each block of `size` queries but the first and the last of the row.

    They are none of the query's neighbours, nor the first of the row. (In the paper's lengths the last may be drawn,
    and neighbours by the two blocks before the last one of the longest row.)

    Attributes:
      count: blocks.
      seed: of the draws, the layer's number from 0.
      size: tokens of a block.
      draws: heads, each of which draws for itself.
      longest: tokens of the longest row that the model knows: the paper's lengths draw for all of it.
    """

    count: int
    seed: int
    size: int = 64
    draws: int = 1
    longest: int = 4096

    @property
    def heads(self) -> int:
        return self.draws

    def at(self, queries: int, keys: int) -> Rows:
        """The blocks. Raises ValueError where queries are not keys, or there are too few blocks to draw from."""
        blocks, random = -(-keys // self.size), np.random.RandomState(self.seed)
        if queries != keys:
            raise ValueError(f"{queries=} must be {keys=}: the released code draws for a row")
        drawn = self._by_head(random) if blocks * self.size in PAPER_LENGTHS else self._by_block(random, blocks)
        rows = [[tuple(np.sort(row).tolist()) for row in head[: blocks - 2]] for head in drawn]
        if any(len(row) < self.count for head in rows for row in head):
            raise ValueError(f"count={self.count} random blocks of size={self.size} cannot be drawn in {keys} tokens")
        return Rows(self.size, tuple(((), *head, ()) for head in rows))

    def _by_block(self, random: np.random.RandomState, blocks: int) -> list[list[np.ndarray]]:
        """Of each head its blocks' draws; heads draw in turn for each block."""
        end, drawn = 2 * self.count + 5, [[] for _ in range(self.draws)]
        for block in range(1, blocks - 1):
            across = {1: end - 2, end - 2: 1}.get(block, 0)
            seen = (0, block - 1, block, block + 1, across, end - 1)
            for head in drawn:
                order = random.permutation(end)
                head.append(order[~np.isin(order, seen)][: self.count])
        return drawn

    def _by_head(self, random: np.random.RandomState) -> list[list[np.ndarray]]:
        """The same in the paper's lengths: a head draws for the blocks of the longest row, then the next head."""
        last = self.longest // self.size - 1
        end = min(PAPER_REACH // self.size - 1 if PAPER_REACH > 2 * self.size else last, last - 1)

        def draw(block):
            free = np.arange(1, end + 1)
            return random.permutation(free if block >= last - 2 else free[abs(free - block) > 1])[: self.count]

        return [[draw(block) for block in range(1, last)] for _ in range(self.draws)]
