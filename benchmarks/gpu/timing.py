"""Times launches of several sides in turns, so that all share the device's clocks and temperature.

A sample is as many launches, one behind the other, as take SAMPLE_S, from the first call to the end of the last one's
work, divided by their number: the device works without a gap, so this is its time, as long as the host hands work out
faster than the device does it. `host_share` says how long that took of the whole; near 1 the host may be what was
timed. Each launch has the next set of operands, which together do not fit the cache.
"""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import jax

SAMPLES = 21
SAMPLE_S = 0.03
MOST_LAUNCHES = 1000


class Side(Protocol):
    """What is timed."""

    def launch(self, number: int) -> Any:
        """Begins the work on the operands of this number, modulo how many there are."""

    def wait(self, result: Any) -> None:
        """Returns when the work is done."""


class Jax:
    """A function of arrays, compiled."""

    def __init__(self, function: Callable, sets: Sequence[tuple[jax.Array, ...]]):
        self._run, self._sets = jax.jit(function), sets

    def launch(self, number: int) -> Any:
        return self._run(*self._sets[number % len(self._sets)])

    def wait(self, result: Any) -> None:
        jax.block_until_ready(result)


def in_turns(sides: Mapping[str, Side], *, samples: int = SAMPLES, sample_s: float = SAMPLE_S) -> dict[str, dict]:
    """A row for each side, that has been launched once before."""
    launches = {name: _warm(side, sample_s) for name, side in sides.items()}
    taken: dict[str, list] = {name: [] for name in sides}
    for _ in range(samples):
        for name, side in sides.items():
            taken[name].append(_sample(side, launches[name]))
    return {name: _row(taken[name], launches[name]) for name in sides}


def _warm(side: Side, sample_s: float) -> int:
    """How many launches take so long; launches on the way warm the device up."""
    count = 1
    while True:
        total, _ = _sample(side, count)
        if total * count >= sample_s or count == MOST_LAUNCHES:
            return count
        count = min(MOST_LAUNCHES, max(2 * count, round(count * sample_s / max(total * count, 1e-6))))


def _sample(side: Side, launches: int) -> tuple[float, float]:
    """Seconds of a launch, and the share of them that the host took to hand it out."""
    start = time.perf_counter()
    for number in range(launches):
        result = side.launch(number)
    handed = time.perf_counter()
    side.wait(result)
    end = time.perf_counter()
    return (end - start) / launches, (handed - start) / (end - start)


def _row(taken: list[tuple[float, float]], launches: int) -> dict:
    seconds, shares = zip(*taken)
    first, median, last = statistics.quantiles(seconds, n=4, method="inclusive")
    return dict(
        median_ms=round(1e3 * median, 5),
        least_ms=round(1e3 * min(seconds), 5),
        spread=round((last - first) / median, 4),
        samples=len(seconds),
        launches=launches,
        host_share=round(statistics.median(shares), 3),
    )
