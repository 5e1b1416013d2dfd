"""The block map: a pattern on rows of T queries and S keys, cut in blocks, as lists of the blocks that are not empty.

For each block of bq queries it names the blocks of bk keys in which a pair is visible. A block whose pairs are all
visible needs no mask; the others point into `masks`, in which each different one stands once: a window has a handful,
whatever the length. It is data on the host, of a size proportional to the blocks that are not empty.
"""

import dataclasses
from functools import cached_property, lru_cache

import numpy as np

from arch.ops.patterns.pattern import ALL, NONE, Pattern, Rectangle


@dataclasses.dataclass(frozen=True, eq=False)
class Lists:
    """For each row, of every head one after the other, the blocks on the other side.

    Attributes:
      starts: [n r + 1] row x of head m has the entries starts[m r + x] ... starts[m r + x + 1] - 1.
      blocks: int32 [e] ascending in each row.
      kind: int32 [e] 0 where every pair is visible, else 1 + a row of the map's masks.
      heads: n.
    """

    starts: np.ndarray
    blocks: np.ndarray
    kind: np.ndarray
    heads: int

    @property
    def rows(self) -> int:
        """r, of one head."""
        return (len(self.starts) - 1) // self.heads

    @cached_property
    def count(self) -> np.ndarray:
        """int32 [n r] how many blocks each row has."""
        return np.diff(self.starts).astype(np.int32).reshape(self.heads, self.rows)

    @cached_property
    def padded(self) -> tuple[np.ndarray, np.ndarray]:
        """int32 [n r w] blocks and kinds, with the last one repeated behind the end (0 in a row without any)."""
        width = max(1, int(self.count.max(initial=0)))
        place = np.minimum(np.arange(width), np.maximum(self.count[..., None] - 1, 0))
        entry = self.starts[:-1].reshape(self.heads, self.rows, 1) + place
        some = self.count[..., None] > 0
        within = np.where(some, entry, 0)
        blocks, kind = (values if len(values) else np.zeros(1, np.int32) for values in (self.blocks, self.kind))
        return np.where(some, blocks[within], 0), np.where(some, kind[within], 0)


@dataclasses.dataclass(frozen=True, eq=False)
class Columns:
    """The map from the keys' side, for the backward pass.

    Attributes:
      queries: int32 [n j w] the query blocks that see key block j, ascending; the last one repeated behind the end.
      count: int32 [n j] how many of them count.
      kind: int32 [n j w] as in `BlockMap`, into the same masks.
      lists: the same without repetition.
    """

    queries: np.ndarray
    count: np.ndarray
    kind: np.ndarray
    lists: Lists


@dataclasses.dataclass(frozen=True, eq=False)
class BlockMap:
    """Which blocks of keys each block of queries sees. Two maps are equal only when they are one object.

    Attributes:
      query_length: T.
      key_length: S.
      block: (bq, bk) tokens.
      lists: the non-empty key blocks of each block of queries, in the order of queries.
      masks: bool [u bq bk] the different blocks that are visible in part; pairs past T or S are not visible.
    """

    query_length: int
    key_length: int
    block: tuple[int, int]
    lists: Lists
    masks: np.ndarray

    @property
    def heads(self) -> int:
        """n: 1 where all heads have the same map."""
        return self.lists.heads

    @property
    def keys(self) -> np.ndarray:
        """int32 [n i w] the non-empty key blocks of query block i, ascending; the last one repeated behind the end."""
        return self.lists.padded[0]

    @property
    def kind(self) -> np.ndarray:
        """int32 [n i w] 0 where every pair of the block is visible, else 1 + a row of `masks`."""
        return self.lists.padded[1]

    @property
    def count(self) -> np.ndarray:
        """int32 [n i] how many key blocks count; 0 for queries that see nothing."""
        return self.lists.count

    def transposed(self) -> Columns:
        """The same by key block."""
        return self._columns

    @cached_property
    def _columns(self) -> Columns:
        heads, blocks = self.heads, -(-self.key_length // self.block[1])
        row = np.repeat(np.arange(len(self.lists.starts) - 1), np.diff(self.lists.starts))
        head, query = np.divmod(row, self.lists.rows)
        column = head * blocks + self.lists.blocks
        order = np.argsort(column, kind="stable")  # so queries ascend
        starts = np.concatenate([[0], np.cumsum(np.bincount(column, minlength=heads * blocks))])
        lists = Lists(starts, query[order].astype(np.int32), self.lists.kind[order], heads)
        queries, kind = lists.padded
        return Columns(queries, lists.count, kind, lists)

    @property
    def visited_pairs(self) -> int:
        """Pairs of tokens in blocks that are not empty, in all n heads together."""
        return len(self.lists.blocks) * self.block[0] * self.block[1]

    @cached_property
    def visible_pairs(self) -> int:
        """Pairs of tokens that see each other, in all n heads together."""
        sizes = np.concatenate([[self.block[0] * self.block[1]], self.masks.sum(axis=(1, 2))])
        return int(sizes[self.lists.kind].sum())

    def dense(self) -> np.ndarray:
        """[n t s] the mask of all pairs, for short rows and for pictures."""
        (bq, bk), columns = self.block, -(-self.key_length // self.block[1])
        tiles = np.zeros((self.heads * self.lists.rows, columns, bq, bk), bool)
        row = np.repeat(np.arange(len(tiles)), np.diff(self.lists.starts))
        tiles[row, self.lists.blocks] = np.concatenate([np.ones((1, bq, bk), bool), self.masks])[self.lists.kind]
        mask = tiles.reshape(self.heads, -1, columns, bq, bk).swapaxes(2, 3).reshape(self.heads, -1, columns * bk)
        return mask[:, : self.query_length, : self.key_length]

    def picture(self) -> np.ndarray:
        """[n i j] the share of visible pairs of each block, from 0 to 1: what a person looks at."""
        area = self.block[0] * self.block[1]
        shares = np.concatenate([[1.0], self.masks.mean(axis=(1, 2))]) if area else np.ones(1)
        image = np.zeros((self.heads * self.lists.rows, -(-self.key_length // self.block[1])))
        row = np.repeat(np.arange(len(image)), np.diff(self.lists.starts))
        image[row, self.lists.blocks] = shares[self.lists.kind]
        return image.reshape(self.heads, self.lists.rows, -1)


@lru_cache(maxsize=64)
def block_map(pattern: Pattern, queries: int, keys: int, *, block: tuple[int, int] = (128, 128)) -> BlockMap:
    """The map of a pattern; the same object when it is asked for again.

    Args:
      pattern: which query sees which key.
      queries: T, tokens.
      keys: S, tokens.
      block: (bq, bk) tokens.

    Raises:
      ValueError: a length or a block below 1.
    """
    if min(queries, keys, *block) < 1:
        raise ValueError(f"{queries=}, {keys=} and {block=} must be at least 1")
    masks = _Masks(pattern.at(queries, keys), queries, keys, block)
    rows = [masks.row(head, first) for head in range(pattern.heads) for first in range(0, queries, block[0])]
    starts = np.concatenate([[0], np.cumsum([len(found) for found, _ in rows])])
    found, kind = (np.concatenate(parts).astype(np.int32) for parts in zip(*rows))
    return BlockMap(queries, keys, block, Lists(starts, found, kind, pattern.heads), masks.stacked())


class _Masks:
    """The different masks seen so far, and their numbers."""

    def __init__(self, pattern: Pattern, queries: int, keys: int, block: tuple[int, int]):
        self.pattern, self.queries, self.keys, self.block = pattern, queries, keys, block
        self.first = np.arange(0, keys, block[1])
        self.known = {}  # what blocks have alike -> their kind, or -1 for none visible
        self.numbers = {}  # a mask's bytes -> its kind

    def row(self, head: int, query: int) -> tuple[np.ndarray, np.ndarray]:
        """The key blocks, and their kinds, of the block of queries that begins here."""
        (bq, bk), end = self.block, min(query + self.block[0], self.queries)
        last = np.minimum(self.first + bk, self.keys) - 1
        status = self.pattern.status(Rectangle(query, end - 1, self.first, last, head))
        (found,) = np.nonzero(status != NONE)
        width = (last - self.first + 1)[found]
        kind = np.where((status[found] == ALL) & (width == bk) & (end - query == bq), 0, -1)
        (rest,) = np.nonzero(kind)
        area = Rectangle(query, end - 1, self.first[found[rest]], last[found[rest]], head)
        for index, start, *likeness in zip(
            rest, area.first_key, width[rest], *np.broadcast_arrays(*self.pattern.alike(area))
        ):
            likeness = (end - query, *likeness)
            if likeness not in self.known:
                self.known[likeness] = self._kind(query, int(start), head)
            kind[index] = self.known[likeness]
        return found[kind >= 0], kind[kind >= 0]

    def _kind(self, query: int, key: int, head: int) -> int:
        query, key = query + np.arange(self.block[0])[:, None], key + np.arange(self.block[1])[None]
        mask = self.pattern.sees(query, key, head) & (query < self.queries) & (key < self.keys)
        if not mask.any() or mask.all():
            return int(mask.all()) - 1
        return self.numbers.setdefault(mask.tobytes(), len(self.numbers) + 1)

    def stacked(self) -> np.ndarray:
        """bool [u bq bk]."""
        masks = [np.frombuffer(data, bool) for data in self.numbers]
        return np.stack(masks).reshape(-1, *self.block) if masks else np.zeros((0, *self.block), bool)
