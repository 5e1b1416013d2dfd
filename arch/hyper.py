"""Sweeps as sequences of points {leaf: value}, put together by the functions that scenic's `get_hyper(hyper)` calls.

    hyper.product([hyper.sweep("optimizer.learning_rate", [1e-3, 3e-3]), hyper.sweep("seed", range(3))])     # 6 points

Random search draws numbers that depend on the leaf's name alone, so that each process of a job array sees the same:

    hyper.zipit([hyper.loguniform("optimizer.learning_rate", hyper.interval(1e-4, 1e-2))], length=20)

Source of the vocabulary: configs of scenic (https://github.com/google-research/scenic) and of uncertainty-baselines.
"""

import dataclasses
import itertools
import math
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

Point = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Endless:
    """Points without an end, the i-th of which is `point(i)`: to be cut by `zipit`."""

    point: Callable[[int], Point]

    def __iter__(self):
        raise ValueError(f"{', '.join(self.point(0))} has no end: put it into zipit([...], length=...)")


@dataclasses.dataclass(frozen=True)
class Interval:
    """The numbers from low to high."""

    low: float
    high: float

    def __post_init__(self):
        if not self.low < self.high:
            raise ValueError(f"low={self.low} of an interval must be below high={self.high}")


def sweep(name: str, values: Iterable) -> list[Point]:
    """A point for each value of a leaf."""
    return [{name: value} for value in values]


def fixed(name: str, value: Any, length: int = 0) -> list[Point] | Endless:
    """The same value in `length` points; 0 for as many as it is zipped with."""
    return [{name: value}] * length if length else Endless(lambda index: {name: value})


def discrete(values: Iterable) -> list:
    """Values for `sweep` or `uniform`."""
    return list(values)


def categorical(values: Iterable) -> list:
    """Values for `sweep` or `uniform`."""
    return list(values)


def boolean() -> list[bool]:
    """Values for `sweep`."""
    return [True, False]


def interval(low: float, high: float) -> Interval:
    """Where `uniform` or `loguniform` draw from."""
    return Interval(low, high)


def uniform(name: str, domain: Interval | Sequence) -> Endless:
    """Random values of a leaf, of an interval or of a list."""

    def point(index):
        draw = random.Random(f"{name} {index}")
        value = draw.uniform(domain.low, domain.high) if isinstance(domain, Interval) else draw.choice(domain)
        return {name: value}

    return Endless(point)


def loguniform(name: str, domain: Interval) -> Endless:
    """Random values of a leaf whose logarithm is uniform."""
    if domain.low <= 0:
        raise ValueError(f"low={domain.low} of the interval of {name} must be above 0")
    logs = uniform(name, Interval(math.log(domain.low), math.log(domain.high)))
    return Endless(lambda index: {name: math.exp(logs.point(index)[name])})


def product(sweeps: Iterable[Iterable[Mapping]]) -> list[Point]:
    """Each point of the first with each of the second, and so on; the last changes fastest."""
    return [_merged(points) for points in itertools.product(*sweeps)]


def zipit(sweeps: Iterable[Iterable[Mapping] | Endless], length: int = 0) -> list[Point]:
    """The i-th points of all together.

    Args:
      sweeps: of one length, or endless.
      length: how many points; 0 for as many as the sweeps have.

    Raises:
      ValueError: the lengths differ, or there is none.
    """
    sweeps = [each if isinstance(each, Endless) else list(each) for each in sweeps]
    lengths = {len(each) for each in sweeps if not isinstance(each, Endless)} | ({length} if length else set())
    if len(lengths) != 1:
        have = ", ".join(map(str, sorted(lengths))) or "none"
        raise ValueError(f"zipit takes sweeps of one length: these have {have}")
    (length,) = lengths
    columns = [[each.point(i) for i in range(length)] if isinstance(each, Endless) else each for each in sweeps]
    return [_merged(points) for points in zip(*columns, strict=True)]


def chainit(sweeps: Iterable[Iterable[Mapping]]) -> list[Point]:
    """The points of the first, then those of the second, and so on."""
    return [dict(point) for each in sweeps for point in each]


def _merged(points: Iterable[Mapping]) -> Point:
    merged = {}
    for point in points:
        if twice := merged.keys() & point.keys():
            raise ValueError(f"{min(twice)} is set twice in one point")
        merged |= point
    return merged
