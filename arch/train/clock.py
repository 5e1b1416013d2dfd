"""Where the time of a run goes.

    goodput = time of the steps whose result was kept / lifetimes of all of the run's processes, so far

A step's time is what the loop took for it, without waits for data: what of the wait for a batch lies behind the end of
the device's work, for a wait while it is busy costs nothing. What is lost: starts and compilation, waits for data,
evaluations, checkpoints, traces and histograms, steps that were skipped, steps that a killed process made behind the
checkpoint that the next one went on from, and the last moments of that process, of which nothing was written. Not
counted at all: the time between two processes.

The run's folder remembers: lines of metrics.jsonl that a resume keeps tell of kept steps; all of its lines, those that
it drops among them, tell how long the earlier processes lived.
"""

import concurrent.futures
import contextlib
import dataclasses
import json
import pathlib
import time
from typing import Protocol, runtime_checkable


@runtime_checkable
class Work(Protocol):
    """What a device makes, such as a `jax.Array`."""

    def is_ready(self) -> bool:
        """Whether it is done."""

    def block_until_ready(self):
        """Returns when it is."""


@dataclasses.dataclass(frozen=True)
class Past:
    """What earlier processes of a run did.

    Attributes:
      wall_seconds: how long they lived, up to their last line of metrics.
      kept_seconds: of the steps up to the one that the run goes on from.
      skipped_steps: among these.
    """

    wall_seconds: float = 0.0
    kept_seconds: float = 0.0
    skipped_steps: int = 0


def past(workdir, step: int) -> Past:
    """What metrics.jsonl tells of a run that goes on from `step`, before the writer drops what is later."""
    file, found = pathlib.Path(workdir) / "metrics.jsonl", {}
    for line in file.read_bytes().splitlines() if file.exists() else ():
        with contextlib.suppress(ValueError):  # a line cut short
            values = json.loads(line)
            found["wall_seconds"] = values.get("perf/wall_seconds", found.get("wall_seconds", 0.0))
            if values["step"] <= step:
                found["kept_seconds"] = values.get("perf/kept_seconds", found.get("kept_seconds", 0.0))
                found["skipped_steps"] = int(values.get("train/skipped_steps", found.get("skipped_steps", 0)))
    return Past(**found)


class Clock:
    """Adds up the seconds of one process.

    Args:
      began: `time.perf_counter()` when the process began.
      before: what earlier processes did.
    """

    def __init__(self, began: float, before: Past = Past()):
        self._began, self._before = began, before
        self._kept, self._skipped = before.kept_seconds, before.skipped_steps
        self._watcher = concurrent.futures.ThreadPoolExecutor(max_workers=1)
        self.start(0)

    def start(self, step: int) -> None:
        """Begins a lap at this step."""
        self._step, self._start = step, time.perf_counter()
        self._apart = {"data": 0.0, "other": 0.0}

    @contextlib.contextmanager
    def waiting(self, work: Work | None = None):
        """What happens inside is the wait for a batch. It counts from when the device has nothing to do.

        Args:
          work: what the device makes last; None if it has nothing to do. A thread looks at when it is done.
        """
        begin = time.perf_counter()
        done = None if work is None or work.is_ready() else self._watcher.submit(_when_done, work)
        try:
            yield
        finally:
            idle, end = begin, time.perf_counter()
            if done:
                idle = done.result() if work.is_ready() else end
            self._apart["data"] += max(end - idle, 0.0)

    @contextlib.contextmanager
    def paused(self):
        """What happens inside belongs to no step."""
        begin = time.perf_counter()
        try:
            yield
        finally:
            self._apart["other"] += time.perf_counter() - begin

    def lap(self, step: int, skipped_steps: int) -> dict[str, float]:
        """Ends a lap at this step and begins the next one.

        Args:
          step: the number of steps taken.
          skipped_steps: how many of the run's changed nothing.

        Returns:
          `seconds_per_step` and `data_wait_share` of the lap, and `so_far`.
        """
        steps = max(step - self._step, 1)
        seconds = self._lap_seconds()
        share = min(self._apart["data"] / seconds, 1.0) if seconds else 0.0
        skipped = min(max(skipped_steps - self._skipped, 0), steps)
        self._kept += seconds * (1 - share) * (1 - skipped / steps)
        self._skipped = skipped_steps
        self.start(step)
        return {"seconds_per_step": seconds / steps, "data_wait_share": share, **self.so_far()}

    def close(self) -> None:
        """Ends the thread, once the device is done."""
        self._watcher.shutdown()

    def so_far(self) -> dict[str, float]:
        """`wall_seconds`, `kept_seconds`, `goodput` of the run; the steps of an unfinished lap are among the kept."""
        kept = self._kept + self._lap_seconds() - self._apart["data"]
        wall = self._before.wall_seconds + time.perf_counter() - self._began
        return {"wall_seconds": wall, "kept_seconds": kept, "goodput": kept / wall}

    def _lap_seconds(self) -> float:
        return time.perf_counter() - self._start - self._apart["other"]


def _when_done(work: Work) -> float:
    with contextlib.suppress(Exception):  # of a computation that failed, which the loop meets where it reads the result
        work.block_until_ready()
    return time.perf_counter()
