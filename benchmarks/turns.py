"""Two or more sides of a comparison that run in turns, so that all share the machine's moods: ours here, peers beside.

A side has `turn()`, the seconds of a run, and `about`, what is to be said of it. Of many turns the least and the median
are kept; the first, in which all warm up, is not counted.
"""

import json
import pathlib
import statistics
import subprocess
import time
from collections.abc import Callable

import jax
import numpy as np

from arch.train.verify import peers_python


class Compiled:
    """A function of arrays, compiled."""

    def __init__(self, function: Callable, *arrays, **about):
        self._arrays = arrays
        self._run = jax.jit(function).lower(*arrays).compile()
        temporary = self._run.memory_analysis().temp_size_in_bytes
        self.about = {"temporary_mib": round(temporary / 2**20, 2)} | about

    def turn(self) -> float:
        """Seconds of a run."""
        start = time.perf_counter()
        jax.block_until_ready(self._run(*self._arrays))
        return time.perf_counter() - start


class Peer:
    """A script in this folder that the peers' Python runs, which answers each line with the seconds of a run.

    Args:
      script: its name; the first line that it prints is `about`.
      **asked: what it is told, as a line of JSON.
    """

    def __init__(self, script: str, **asked):
        self._asked = asked
        command = [peers_python(), str(pathlib.Path(__file__).with_name(script))]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.about = self._answer()

    def turn(self) -> float:
        """Seconds of a run."""
        print(json.dumps(self._asked), file=self._process.stdin, flush=True)
        return self._answer()

    def _answer(self):
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the peer ended with {self._process.wait()} before it answered")
        return json.loads(line)


def row(seconds: list[float]) -> dict:
    """Least and median."""
    times = {"least_ms": min(seconds), "median_ms": statistics.median(seconds)}
    return {name: round(1e3 * value, 2) for name, value in times.items()} | {"runs": len(seconds)}


def in_turns(sides: dict, rounds: int, *, seconds: float = 0.0) -> dict[str, dict]:
    """A row for each side.

    Args:
      sides: by name.
      rounds: of all sides.
      seconds: of a turn; a side that is done earlier runs again, and each run counts.
    """
    runs = {name: [] for name in sides}
    for number in range(rounds + 1):
        for name, side in sides.items():
            turn = [side.turn()]
            while sum(turn) < seconds:
                turn.append(side.turn())
            runs[name] += turn if number else []
    return {name: row(found) | sides[name].about for name, found in runs.items()}


def alone(side, *, fewest: int = 4, most: int = 9, enough_seconds: float = 2.0) -> dict:
    """A row of one side, run until it has taken so many seconds."""
    side.turn()
    seconds = []
    while len(seconds) < fewest or (len(seconds) < most and sum(seconds) < enough_seconds):
        seconds.append(side.turn())
    return row(seconds) | side.about


def exponent(rows: list[dict], key: str) -> float:
    """Of the power of the length that fits best."""
    lengths, values = (np.log([line[name] for line in rows]) for name in ("length", key))
    return round(float(np.polyfit(lengths, values, 1)[0]), 3)
