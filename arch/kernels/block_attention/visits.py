"""The blocks that a kernel visits, one after the other: a block map as two int32 for each block that is not empty.

A row is a block of queries, or in the backward pass by keys a block of keys; its columns are the blocks it meets, full
ones first, so that what needs masks needs no branch.

    place = row << 16 | column
    flags = mask << 12 | member << 4 | last << 3 | first << 2 | partial << 1 | visible

`first` and `last` say where a row begins and ends. A row that meets nothing has one visit, not `visible`, in which the
kernel writes its zeros. What such a visit or a full block would fetch, a column or a mask, is what the one before had,
so that nothing is fetched.
"""

import dataclasses

import numpy as np

from arch.ops.patterns.blocks import Lists

VISIBLE, PARTIAL, FIRST, LAST = 1, 2, 4, 8
MOST_BLOCKS, MOST_MEMBERS, MOST_MASKS = 1 << 15, 1 << 8, 1 << 19


@dataclasses.dataclass(frozen=True)
class Visits:
    """Lists of visits in the order of their rows.

    Attributes:
      place: int32 [n s] row and column; n is 1 where all heads share a list. A list shorter than the longest one ends
        in visits that are neither visible nor first nor last.
      flags: int32 [n s] see above. `member` is the head within a group of heads that share a list but not its visits.
      begin: int32 [n rows + 1] where in the list each row begins.
      partial: int32 [n rows] where in the list its partial blocks begin; a row that meets nothing has only those.
      order: int32 [n rows] the rows, longest first: the order in which they keep a GPU busy to the end.
      count: how many are visible, in all lists.
    """

    place: np.ndarray
    flags: np.ndarray
    begin: np.ndarray
    partial: np.ndarray
    order: np.ndarray
    count: int


def visits(lists: Lists, *, group: int = 1) -> Visits:
    """The visits of one side of a block map.

    Args:
      lists: of a `BlockMap`, or of its transpose.
      group: so many heads' lists become one, row by row: the query heads of a key-value head.

    Raises:
      ValueError: more blocks, heads of a group or masks than two int32 hold.
    """
    blocks = max(lists.rows, int(lists.blocks.max(initial=0)) + 1)
    for name, value, most in (
        ("blocks", blocks, MOST_BLOCKS),
        ("heads of a group", group, MOST_MEMBERS),
        ("masks", int(lists.kind.max(initial=0)), MOST_MASKS),
    ):
        if value > most:
            raise ValueError(f"{value} {name} are more than the kernels' {most}")
    head, row = np.divmod(np.repeat(np.arange(lists.heads * lists.rows), np.diff(lists.starts)), lists.rows)
    total = lists.count.reshape(-1, group, lists.rows).sum(1)
    idle = np.argwhere(total == 0)
    partial = lists.kind > 0
    entries = np.stack([head // group, row, partial, head % group, lists.blocks, lists.kind, np.ones_like(row)])
    entries = np.concatenate([entries, np.pad(idle.T, ((0, 5), (0, 0)))], axis=1)
    which, row, partial, member, column, kind, visible = entries[:, np.lexsort(entries[3::-1])]
    bounds = np.diff(which * lists.rows + row) != 0
    edges = np.append(True, bounds) * FIRST | np.append(bounds, True) * LAST
    flags = _filled(kind - 1, partial) << 12 | member << 4 | edges | partial * PARTIAL | visible * VISIBLE
    place = row << 16 | _filled(column, visible)
    begin = np.pad(np.cumsum(np.maximum(total, 1), axis=1), ((0, 0), (1, 0)))
    ends = np.cumsum(begin[:, -1])[:-1]
    longest = begin[:, -1].max()
    longer = lambda part: np.pad(part, (0, longest - len(part)), mode="edge")
    places = np.stack([longer(part) for part in np.split(place, ends)])
    flags = np.stack([longer(part) for part in np.split(flags, ends)])
    behind = np.arange(longest) >= begin[:, -1:]
    flags = np.where(behind, flags & ~(VISIBLE | PARTIAL | FIRST | LAST), flags)
    full = np.zeros_like(total)
    np.add.at(full, (which, row), visible * (1 - partial))
    order = np.argsort(-total, axis=1, kind="stable")
    arrays = places, flags, begin, begin[:, :-1] + full, order
    return Visits(*(array.astype(np.int32) for array in arrays), len(lists.blocks))


def _filled(values, known):
    """The known values; elsewhere the last one known before, or the first one known."""
    (places,) = np.nonzero(known)
    if not len(places):
        return np.zeros_like(values)
    return values[places[np.maximum(np.searchsorted(places, np.arange(len(values)), side="right") - 1, 0)]]
