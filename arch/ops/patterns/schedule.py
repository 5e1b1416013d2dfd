"""In which order the rows of a block map are worked off: steps of equal shape, so that one loop serves all of them.

A step takes a few rows with the blocks that each of them meets. Rows that meet about as many share a loop, with their
lists filled up to the longest; rows that meet very many (a global token's, or those of a dense pattern) go one by one,
some of their blocks at a time. There are at most `LOOPS` loops of the first kind and one of the second, whatever the
length, and they are chosen so that the least is filled up.
"""

import dataclasses

import numpy as np

from arch.ops.patterns.blocks import Lists

LOOPS = 3


@dataclasses.dataclass(frozen=True, eq=False)
class Loop:
    """Steps of one shape.

    Attributes:
      rows: int32 [steps g] rows of the lists; the last one is repeated to fill the last step up, and then meets nothing.
      blocks: int32 [parts g w] which blocks each row meets; 0 where filled up.
      kind: int32 [parts g w] see `BlockMap`; -1 where filled up.
      begin: int32 [steps + 1] step x has the parts begin[x] ... begin[x + 1] - 1.
    """

    rows: np.ndarray
    blocks: np.ndarray
    kind: np.ndarray
    begin: np.ndarray

    @property
    def single(self) -> bool:
        """Each step has one part."""
        return len(self.blocks) == len(self.rows)


def schedule(lists: Lists, *, blocks: int) -> list[Loop]:
    """Loops that together have each row of the lists once, those that meet nothing too.

    Args:
      lists: of a block map, or of its transpose.
      blocks: how many a step shall meet, in all its rows.
    """
    count = np.maximum(lists.count.reshape(-1), 1)
    (long,) = np.nonzero(count > 2 * blocks)
    loops, low = [], 0
    for high in _widths(count[count <= 2 * blocks]):
        (rows,) = np.nonzero((low < count) & (count <= high))
        loops.append(_short(lists, rows, high, max(1, blocks // high)))
        low = high
    return loops + ([_long(lists, long, blocks)] if len(long) else [])


def _widths(count: np.ndarray) -> list[int]:
    """At most LOOPS widths, ascending, to which lists of these lengths are filled up with the least filling."""
    lengths, rows = np.unique(count, return_counts=True)
    below = np.concatenate([[0], np.cumsum(rows)])
    best = {0: (0, [])}  # the cost of the lengths so far, by as many widths as there have been rounds
    for _ in range(LOOPS):
        for end in range(len(lengths), 0, -1):
            options = [
                (cost + int(below[end] - below[begin]) * int(lengths[end - 1]), [*widths, int(lengths[end - 1])])
                for begin, (cost, widths) in best.items()
                if begin < end
            ]
            best[end] = min([*options, *([best[end]] if end in best else [])])
    return best[len(lengths)][1]


def _filled(lists: Lists, rows: np.ndarray, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Blocks and kinds at these places of the rows' lists; 0 and -1 behind the end."""
    entry = lists.starts[rows][..., None] + places
    real = entry < lists.starts[rows + 1][..., None]
    if not len(lists.blocks):
        return np.zeros(real.shape, np.int32), np.full(real.shape, -1, np.int32)
    entry = np.where(real, entry, 0)
    return np.where(real, lists.blocks[entry], 0), np.where(real, lists.kind[entry], -1)


def _short(lists: Lists, rows: np.ndarray, width: int, together: int) -> Loop:
    """Rows a few together, each with all its blocks; in as many steps as so many together need, about equally many."""
    steps = -(-len(rows) // together)
    together = -(-len(rows) // steps)
    more = steps * together - len(rows)
    rows = np.pad(rows, (0, more), mode="edge").reshape(steps, together).astype(np.int32)
    blocks, kind = _filled(lists, rows, np.arange(width))
    if more:
        kind[-1, -more:] = -1  # else the gradients of what they meet would count them again
    return Loop(rows, blocks, kind, np.arange(steps + 1, dtype=np.int32))


def _long(lists: Lists, rows: np.ndarray, width: int) -> Loop:
    """Rows one by one, each in parts."""
    parts = -(-lists.count.reshape(-1)[rows] // width)
    begin = np.concatenate([[0], np.cumsum(parts)]).astype(np.int32)
    which = np.arange(begin[-1]) - np.repeat(begin[:-1], parts)
    blocks, kind = _filled(lists, np.repeat(rows, parts), which[:, None] * width + np.arange(width))
    return Loop(rows[:, None].astype(np.int32), blocks[:, None], kind[:, None], begin)
