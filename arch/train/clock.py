"""Where the time of a process goes: at each moment into a step, or lost to one cause.

    goodput = time of the steps whose result was kept / (that + the time lost to each cause)

A step's time is what the loop took for it, without waits for data: what of the wait for a batch lies behind the end of
the device's work, for a wait while it is busy costs nothing. The sums go on from what earlier processes of the run left
(`arch.train.ledger`), so that they are of the run, from its first process's start on.
"""

import concurrent.futures
import contextlib
import math
import threading
import time
from collections.abc import Mapping
from types import MappingProxyType
from typing import Protocol, runtime_checkable

from arch.train.progress import hours

STEP = "step"

CAUSES = {
    "startup": "from the start of a process to its first step, but for restore, compile and eval",
    "restore": "until the state to begin with is there: a checkpoint's, or a fresh one",
    "compile": "the check of the routers, and the compilation of the step",
    "data": "waits for a batch while the device had nothing to do",
    "eval": "evaluations and their samples of text",
    "checkpoint": "for which the loop was held up by checkpoints",
    "other": "traces, histograms, records of bad batches",
    "stall": "single steps, or waits for a batch, that took `watch_seconds` or more",
    "skipped": "steps that changed no parameter",
    "redone": "steps behind the checkpoint from which the next process went on",
    "down": "from the last sign of life of a process to the next one's start, while the run was not at its end",
}
"""What time is lost to, and words."""


@runtime_checkable
class Work(Protocol):
    """What a device makes, such as a `jax.Array`."""

    def is_ready(self) -> bool:
        """Whether it is done."""

    def block_until_ready(self):
        """Returns when it is."""


class Clock:
    """Adds up the seconds of a run.

    Args:
      began: `time.perf_counter()` when the process began.
      before: seconds by cause, and of kept steps, that earlier processes left.
      patience: seconds from which on a step or a wait for a batch is a stall; 0 for none.
    """

    def __init__(self, began: float, before: Mapping[str, float] = MappingProxyType({}), *, patience: float = 0.0):
        self._seconds = dict.fromkeys((STEP, *CAUSES), 0.0) | dict(before)
        self._cause, self._since, self._patience = "startup", began, patience or math.inf
        self._skipped, self._lock = 0, threading.Lock()
        self._watcher = concurrent.futures.ThreadPoolExecutor(max_workers=1)
        self._begin_lap(0)

    def goes_on(self, kept_seconds: float, skipped_steps: int) -> None:
        """The run goes on from a step. What earlier processes did behind it has to be done again.

        Args:
          kept_seconds: of the steps up to that one.
          skipped_steps: among these.
        """
        with self._lock:
            redone = max(self._seconds[STEP] - kept_seconds, 0.0)
            self._seconds[STEP] -= redone
            self._seconds["redone"] += redone
            self._skipped = skipped_steps

    def start(self, step: int) -> None:
        """The time of steps begins, and a lap at this step."""
        self._switch(STEP)
        self._begin_lap(step)

    def step(self) -> None:
        """A step has been given to the device, and the one before is done."""
        self._switch(STEP)

    @contextlib.contextmanager
    def lost(self, cause: str):
        """What happens inside belongs to no step."""
        before = self._cause
        self._switch(cause)
        try:
            yield
        finally:
            self._switch(before)

    @contextlib.contextmanager
    def waiting(self, work: Work | None = None):
        """What happens inside is the wait for a batch. It counts from when the device has nothing to do.

        Args:
          work: what the device makes last; None if it has nothing to do. A thread looks at when it is done.
        """
        done = None if work is None or work.is_ready() else self._watcher.submit(_when_done, work)
        if not done:
            self._switch("data")
        try:
            yield
        finally:
            if done and work.is_ready():
                self._switch("data", at=done.result())
            self._switch(STEP)

    def lap(self, step: int, skipped_steps: int) -> dict[str, float]:
        """Ends a lap at this step and begins the next one.

        Args:
          step: the number of steps taken.
          skipped_steps: how many of the run's changed nothing.

        Returns:
          `seconds_per_step` and `data_wait_share` of the lap, and `so_far`.
        """
        self._switch(self._cause)
        first, then = self._lap
        steps = max(step - first, 1)
        working, waiting = (self._seconds[cause] - then[cause] for cause in (STEP, "data"))
        seconds = working + waiting
        skipped = working * min(max(skipped_steps - self._skipped, 0), steps) / steps
        self._seconds[STEP] -= skipped
        self._seconds["skipped"] += skipped
        self._skipped = skipped_steps
        self._begin_lap(step)
        share = waiting / seconds if seconds else 0.0
        return {"seconds_per_step": seconds / steps, "data_wait_share": share, **self.so_far()}

    def close(self) -> None:
        """Ends the thread, once the device is done."""
        self._watcher.shutdown()

    def seconds(self) -> dict[str, float]:
        """Of kept steps and of each cause, so far; the steps of an unfinished lap are among the kept."""
        with self._lock:
            open_seconds = time.perf_counter() - self._since
            return self._seconds | {self._cause: self._seconds[self._cause] + open_seconds}

    def so_far(self) -> dict[str, float]:
        """`wall_seconds`, `kept_seconds`, `goodput` of the run, and `lost_<cause>_seconds` where some were lost."""
        seconds = self.seconds()
        kept, wall = seconds[STEP], sum(seconds.values())
        lost = {f"lost_{cause}_seconds": seconds[cause] for cause in CAUSES if seconds[cause]}
        return {"wall_seconds": wall, "kept_seconds": kept, "goodput": kept / wall, **lost}

    def line(self) -> str:
        """`goodput 83.1 % of 0:04:51; lost: compile 31.0 s, ...`, the largest first."""
        seconds = self.seconds()
        kept, wall = seconds.pop(STEP), sum(seconds.values())
        largest = sorted(((value, cause) for cause, value in seconds.items() if value >= 0.05), reverse=True)
        lost = ", ".join(f"{cause} {value:.1f} s" for value, cause in largest)
        return f"goodput {kept / (kept + wall):.1%} of {hours(kept + wall)}; lost: {lost or 'nothing'}"

    def _begin_lap(self, step: int) -> None:
        self._lap = step, dict(self._seconds)

    def _switch(self, cause: str, at: float | None = None) -> None:
        """Ends the present cause, and begins another."""
        with self._lock:
            now = time.perf_counter() if at is None else at
            spent = now - self._since
            stalls = self._cause in (STEP, "data") and spent >= self._patience
            self._seconds["stall" if stalls else self._cause] += spent
            self._cause, self._since = cause, now


def _when_done(work: Work) -> float:
    with contextlib.suppress(Exception):  # of a computation that failed, which the loop meets where it reads the result
        work.block_until_ready()
    return time.perf_counter()
