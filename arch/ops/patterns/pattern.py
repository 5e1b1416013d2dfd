"""A pattern says which query sees which key: a predicate of two places in a row, composed with & and |.

    causal & (window(512) | global_tokens(0) | random_blocks(3, seed=1))

It is looked at in rectangles, ranges of queries by ranges of keys: `status` tells from their borders alone where no
pair is visible and where every pair is, so that single pairs are asked about (`sees`) in the few rectangles between,
and in one of all those that are `alike`. So a row of N tokens costs what its visible blocks cost, never N x N.
"""

import dataclasses

import numpy as np

NONE, SOME, ALL = 0, 1, 2
"""What a rectangle shows by its borders: no visible pair; perhaps some, perhaps not all; all. & is min, | is max."""


@dataclasses.dataclass(frozen=True)
class Rectangle:
    """Queries first_query ... last_query against each of the ranges first_key[j] ... last_key[j], in one head.

    Attributes:
      first_query: place in the row.
      last_query: place in the row, included.
      first_key: [j] ascending.
      last_key: [j] included.
      head: the query head.
    """

    first_query: int
    last_query: int
    first_key: np.ndarray
    last_key: np.ndarray
    head: int = 0


class Pattern:
    """Base of all patterns, which are frozen dataclasses: data that can be compared, hashed and printed."""

    @property
    def heads(self) -> int:
        """1 where all heads see the same, else how many there are."""
        return 1

    def at(self, queries: int, keys: int) -> "Pattern":
        """The pattern in a row of so many queries and keys: what depends on the lengths is settled here."""
        return self

    def sees(self, query: np.ndarray, key: np.ndarray, head: int = 0) -> np.ndarray:
        """Whether each query sees each key, of places that broadcast."""
        raise NotImplementedError

    def status(self, area: Rectangle) -> np.ndarray:
        """[j] NONE, SOME or ALL of each range of keys. SOME promises nothing."""
        return np.full(area.first_key.shape, SOME)

    def detail(self, area: Rectangle) -> tuple[np.ndarray, ...]:
        """Arrays of [j], hashable: rectangles of one shape that agree in all of them show the same pairs."""
        return tuple(map(np.asarray, (area.first_query, area.first_key, area.head)))

    def alike(self, area: Rectangle) -> tuple[np.ndarray, ...]:
        """The same with the status, which tells enough where it is not SOME."""
        status = self.status(area)
        return status, *(np.where(status == SOME, detail, 0) for detail in self.detail(area))

    def __and__(self, other: "Pattern") -> "Pattern":
        return Both(self, other)

    def __or__(self, other: "Pattern") -> "Pattern":
        return Either(self, other)

    def dense(self, queries: int, keys: int) -> np.ndarray:
        """[n t s] the mask of all pairs, for short rows and for pictures; n is `heads`."""
        places, bound = (np.arange(queries)[:, None], np.arange(keys)[None]), self.at(queries, keys)
        masks = [np.broadcast_to(bound.sees(*places, head), (queries, keys)) for head in range(self.heads)]
        return np.stack(masks)


@dataclasses.dataclass(frozen=True)
class _Pair(Pattern):
    """Two patterns."""

    left: Pattern
    right: Pattern

    def __post_init__(self):
        left, right = self.left.heads, self.right.heads
        if left != right and 1 not in (left, right):
            raise ValueError(f"heads={left} of a pattern must be heads={right} of the other, or 1")

    @property
    def heads(self) -> int:
        return max(self.left.heads, self.right.heads)

    def at(self, queries: int, keys: int) -> Pattern:
        return type(self)(self.left.at(queries, keys), self.right.at(queries, keys))

    def alike(self, area: Rectangle) -> tuple[np.ndarray, ...]:
        return *self.left.alike(area), *self.right.alike(area)


class Both(_Pair):
    """A query sees a key where both patterns let it."""

    def sees(self, query: np.ndarray, key: np.ndarray, head: int = 0) -> np.ndarray:
        return self.left.sees(query, key, head) & self.right.sees(query, key, head)

    def status(self, area: Rectangle) -> np.ndarray:
        return np.minimum(self.left.status(area), self.right.status(area))


class Either(_Pair):
    """A query sees a key where either pattern lets it."""

    def sees(self, query: np.ndarray, key: np.ndarray, head: int = 0) -> np.ndarray:
        return self.left.sees(query, key, head) | self.right.sees(query, key, head)

    def status(self, area: Rectangle) -> np.ndarray:
        return np.maximum(self.left.status(area), self.right.status(area))


@dataclasses.dataclass(frozen=True)
class ByHead(Pattern):
    """The first `each` heads see what the first pattern shows, the next ones what the second shows, and so on."""

    parts: tuple[Pattern, ...]
    each: int = 1

    def __post_init__(self):
        for part in self.parts:
            if part.heads not in (1, self.heads):
                raise ValueError(f"heads={part.heads} of a part must be 1 or those of all, {self.heads}")

    @property
    def heads(self) -> int:
        return len(self.parts) * self.each

    def at(self, queries: int, keys: int) -> Pattern:
        return ByHead(tuple(part.at(queries, keys) for part in self.parts), self.each)

    def sees(self, query: np.ndarray, key: np.ndarray, head: int = 0) -> np.ndarray:
        return self.parts[head // self.each].sees(query, key, head)

    def status(self, area: Rectangle) -> np.ndarray:
        return self.parts[area.head // self.each].status(area)

    def alike(self, area: Rectangle) -> tuple[np.ndarray, ...]:
        part = area.head // self.each
        return np.asarray(part), *self.parts[part].alike(area)
