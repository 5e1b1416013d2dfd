"""Patterns that list blocks: given ones, and random ones (BigBird).

Zaheer et al., Big Bird: Transformers for Longer Sequences, 2020, arXiv 2007.14062, sec. 2 and app. D: each block of
queries sees `count` random blocks of keys beside its window and the global tokens; heads and layers draw their own.
"""

import dataclasses

import numpy as np

from arch.ops.patterns.pattern import ALL, NONE, SOME, Pattern, Rectangle


@dataclasses.dataclass(frozen=True)
class Rows(Pattern):
    """For each head and block of `size` queries, the blocks of `size` keys that it sees, ascending."""

    size: int
    table: tuple[tuple[tuple[int, ...], ...], ...]

    def __post_init__(self):
        if self.size < 1:
            raise ValueError(f"size={self.size} must be at least 1")
        if not all(list(row) == sorted(set(row)) for head in self.table for row in head):
            raise ValueError("the key blocks of each block of queries must ascend")

    @property
    def heads(self) -> int:
        return len(self.table)

    def _row(self, block: int, head: int) -> np.ndarray:
        """Rows that are not listed see nothing."""
        rows = self.table[head % len(self.table)]
        return np.asarray(rows[block] if block < len(rows) else (), np.int64)

    def sees(self, query: np.ndarray, key: np.ndarray, head: int = 0) -> np.ndarray:
        blocks, which = np.unique(query // self.size, return_inverse=True)
        row, found = which.reshape(np.shape(query)), np.zeros(np.broadcast_shapes(query.shape, key.shape), bool)
        for i, block in enumerate(blocks):
            found |= (row == i) & np.isin(key // self.size, self._row(int(block), head))
        return found

    def status(self, area: Rectangle) -> np.ndarray:
        first, last = area.first_key // self.size, area.last_key // self.size
        rows = [self._row(block, area.head) for block in self._blocks(area)]
        seen = [np.searchsorted(row, last, "right") - np.searchsorted(row, first, "left") for row in rows]
        none, every = (np.all([count == wanted for count in seen], axis=0) for wanted in (0, last - first + 1))
        return np.where(none, NONE, np.where(every, ALL, SOME))

    def _blocks(self, area: Rectangle) -> range:
        return range(area.first_query // self.size, area.last_query // self.size + 1)

    def detail(self, area: Rectangle) -> tuple[np.ndarray, ...]:
        first, last = area.first_key // self.size, area.last_key // self.size
        cells = range(int(np.max(last - first, initial=0)) + 1)
        if len(cells) * len(self._blocks(area)) > 62:
            return super().detail(area)
        bits = np.zeros(first.shape, np.int64)
        for block in self._blocks(area):
            row = self._row(block, area.head)
            for cell in cells:
                bits = 2 * bits + (np.isin(first + cell, row) & (first + cell <= last))
        return bits, np.full(first.shape, area.first_query % self.size), area.first_key % self.size


@dataclasses.dataclass(frozen=True)
class RandomBlocks(Pattern):
    """`count` random blocks of `size` keys for each block of `size` queries, drawn without repetition.

    A row's draw depends on the seed, the head, the row and how many blocks it may draw from.

    Attributes:
      count: blocks; fewer where there are not so many.
      seed: of the draws: layers with seeds of their own see different blocks.
      size: tokens of a block.
      draws: heads that draw for themselves; 1 for one draw for all.
      outside: a pattern; a block that it may show any of is not drawn.
      causal: only blocks that begin before the query's are drawn, and its own.
    """

    count: int
    seed: int
    size: int = 64
    draws: int = 1
    outside: Pattern | None = None
    causal: bool = False

    def __post_init__(self):
        if self.count < 0 or self.size < 1 or self.draws < 1:
            rule = "must be at least 0, and size and draws at least 1"
            raise ValueError(f"count={self.count}, size={self.size}, draws={self.draws}: the count {rule}")

    @property
    def heads(self) -> int:
        return self.draws

    def at(self, queries: int, keys: int) -> Rows:
        first = np.arange(0, keys, self.size)
        last = np.minimum(first + self.size, keys) - 1
        outside = None if self.outside is None else self.outside.at(queries, keys)
        table = [[] for _ in range(self.draws)]
        for row, query in enumerate(range(0, queries, self.size)):
            end = min(query + self.size, queries) - 1
            free = first <= end if self.causal else np.ones(first.shape, bool)
            if outside is not None:
                free &= outside.status(Rectangle(query, end, first, last)) == NONE
            (free,) = np.nonzero(free)
            for head, rows in enumerate(table):
                drawn = np.random.default_rng((self.seed, head, row)).permutation(free)[: self.count]
                rows.append(tuple(np.sort(drawn).tolist()))
        return Rows(self.size, tuple(map(tuple, table)))
