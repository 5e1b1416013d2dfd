"""The predicates that patterns are made of: distance, blocks, residues, tokens, borders.

Each is a rule of a query's place i and a key's place j, and what that rule says of whole ranges of both.
"""

import bisect
import dataclasses

import numpy as np

from arch.ops.patterns.pattern import ALL, NONE, SOME, Pattern, Rectangle

FAR = 2**62
"""Farther than any two places are apart."""


def _graded(none: np.ndarray, every: np.ndarray) -> np.ndarray:
    """NONE and ALL where they hold, else SOME."""
    return np.where(none, NONE, np.where(every, ALL, SOME))


@dataclasses.dataclass(frozen=True)
class Distance(Pattern):
    """low <= i - j <= high, and step divides i - j: causal, windows, dilated windows, strides."""

    low: int = -FAR
    high: int = FAR
    step: int = 1

    def __post_init__(self):
        if self.step < 1:
            raise ValueError(f"step={self.step} must be at least 1")

    def sees(self, query: np.ndarray, key: np.ndarray, head: int = 0) -> np.ndarray:
        distance = query - key
        near = (distance >= self.low) & (distance <= self.high)
        return near if self.step == 1 else near & (distance % self.step == 0)

    def status(self, area: Rectangle) -> np.ndarray:
        least, most = area.first_query - area.last_key, area.last_query - area.first_key
        low, high = np.maximum(least, self.low), np.minimum(most, self.high)
        none = high - high % self.step < low  # the last multiple of step up to high
        return _graded(none, (low == least) & (high == most) & ((self.step == 1) | (least == most)))

    def detail(self, area: Rectangle) -> tuple[np.ndarray, ...]:
        return (area.first_query - area.first_key,)


@dataclasses.dataclass(frozen=True)
class BlockDistance(Pattern):
    """The query's block of so many tokens is at most `before` blocks behind the key's, `after` before it."""

    size: int
    before: int = 0
    after: int = 0

    def __post_init__(self):
        if self.size < 1 or self.before < 0 or self.after < 0:
            rule = "must be at least 1, and what is seen before and after at least 0"
            raise ValueError(f"size={self.size}, before={self.before}, after={self.after}: the size {rule}")

    def sees(self, query: np.ndarray, key: np.ndarray, head: int = 0) -> np.ndarray:
        distance = query // self.size - key // self.size
        return (distance <= self.before) & (distance >= -self.after)

    def status(self, area: Rectangle) -> np.ndarray:
        least = area.first_query // self.size - area.last_key // self.size
        most = area.last_query // self.size - area.first_key // self.size
        none = (least > self.before) | (most < -self.after)
        return _graded(none, (most <= self.before) & (least >= -self.after))

    def detail(self, area: Rectangle) -> tuple[np.ndarray, ...]:
        return area.first_query - area.first_key, area.first_key % self.size


@dataclasses.dataclass(frozen=True)
class Residue(Pattern):
    """The key is one of the last `last` of its block of `size` tokens: Sparse Transformer's summaries."""

    size: int
    last: int

    def __post_init__(self):
        if not 0 < self.last <= self.size:
            raise ValueError(f"last={self.last} must be at least 1 and at most size={self.size}")

    def sees(self, query: np.ndarray, key: np.ndarray, head: int = 0) -> np.ndarray:
        return (key % self.size >= self.size - self.last) & (query == query)

    def status(self, area: Rectangle) -> np.ndarray:
        def before(place):
            """How many of the keys before a place are seen."""
            return place // self.size * self.last + np.maximum(place % self.size - (self.size - self.last), 0)

        seen = before(area.last_key + 1) - before(area.first_key)
        return _graded(seen == 0, seen == area.last_key - area.first_key + 1)

    def detail(self, area: Rectangle) -> tuple[np.ndarray, ...]:
        return (area.first_key % self.size,)


@dataclasses.dataclass(frozen=True)
class Prefix(Pattern):
    """The key is among the first `length`."""

    length: int

    def sees(self, query: np.ndarray, key: np.ndarray, head: int = 0) -> np.ndarray:
        return (key < self.length) & (query == query)

    def status(self, area: Rectangle) -> np.ndarray:
        return _graded(area.first_key >= self.length, area.last_key < self.length)


@dataclasses.dataclass(frozen=True)
class Ends(Pattern):
    """The query or the key is before place `low`, or at `high` or behind; below 0 it counts from the row's end."""

    low: int = 0
    high: int = FAR

    def at(self, queries: int, keys: int) -> Pattern:
        """With `high` from the start. Queries and keys that are counted from the end must be of one row."""
        if self.high < 0 and queries != keys:
            raise ValueError(f"high={self.high} must be at least 0 where {queries=} are not {keys=}")
        return Ends(self.low, max(0, self.high + keys) if self.high < 0 else self.high)

    def _among(self, place):
        return (place < self.low) | (place >= self.high)

    def sees(self, query: np.ndarray, key: np.ndarray, head: int = 0) -> np.ndarray:
        return self._among(query) | self._among(key)

    def status(self, area: Rectangle) -> np.ndarray:
        def graded(first, last):
            """Whether none of a range's places is at an end, and whether all of them are."""
            middle = ~(self._among(first) | self._among(last))
            return middle, (last < self.low) | (first >= self.high) | (self.low >= self.high)

        no_query, queries = graded(np.asarray(area.first_query), np.asarray(area.last_query))
        no_key, keys = graded(area.first_key, area.last_key)
        return _graded(no_query & no_key, queries | keys)

    def detail(self, area: Rectangle) -> tuple[np.ndarray, ...]:
        def inside(first, last):
            """How many of a range's places are at either end."""
            size = last - first + 1
            return tuple(np.asarray(np.clip(count, 0, size)) for count in (self.low - first, last + 1 - self.high))

        return *inside(area.first_query, area.last_query), *inside(area.first_key, area.last_key)


@dataclasses.dataclass(frozen=True)
class Tokens(Pattern):
    """The query or the key is one of these places; those below 0 count from the row's end."""

    places: tuple[int, ...]

    def at(self, queries: int, keys: int) -> Pattern:
        """With the places from the start. Queries and keys that are counted from the end must be of one row."""
        if min(self.places, default=0) < 0 and queries != keys:
            raise ValueError(f"places={self.places} must be at least 0 where {queries=} are not {keys=}")
        within = (place + keys * (place < 0) for place in self.places if -keys <= place)
        return Tokens(tuple(sorted(set(within))))

    def sees(self, query: np.ndarray, key: np.ndarray, head: int = 0) -> np.ndarray:
        return np.isin(query, self.places) | np.isin(key, self.places)

    def status(self, area: Rectangle) -> np.ndarray:
        places = np.asarray(self.places, np.int64)

        def among(first, last):
            """How many of a range's places there are, and how many of them are among these."""
            return last - first + 1, np.searchsorted(places, last, "right") - np.searchsorted(places, first, "left")

        (queries, query), (keys, key) = among(area.first_query, area.last_query), among(area.first_key, area.last_key)
        return _graded((query == 0) & (key == 0), (query == queries) | (key == keys))

    def detail(self, area: Rectangle) -> tuple[np.ndarray, ...]:
        def inside(first, last):
            """The places within a range, from its start."""
            begin, end = bisect.bisect_left(self.places, first), bisect.bisect_right(self.places, last)
            return tuple(int(place - first) for place in self.places[begin:end])

        queries, likeness = inside(area.first_query, area.last_query), np.empty(area.first_key.shape, object)
        for index, ends in enumerate(zip(area.first_key, area.last_key)):
            likeness[index] = queries, inside(*ends)
        return (likeness,)


@dataclasses.dataclass(frozen=True)
class Segments(Pattern):
    """Query and key are in the same part of the row, of which each but the first begins at one of these places."""

    borders: tuple[int, ...]

    def __post_init__(self):
        if list(self.borders) != sorted(set(self.borders)):
            raise ValueError(f"borders={self.borders} must ascend")

    def _of(self, place):
        return np.searchsorted(np.asarray(self.borders, np.int64), place, "right")

    def sees(self, query: np.ndarray, key: np.ndarray, head: int = 0) -> np.ndarray:
        return self._of(query) == self._of(key)

    def status(self, area: Rectangle) -> np.ndarray:
        first, last = self._of(area.first_query), self._of(area.last_query)
        first_key, last_key = self._of(area.first_key), self._of(area.last_key)
        none = (last < first_key) | (last_key < first)
        return _graded(none, (first == last) & (first_key == last_key) & (first == first_key))
