"""Tells which process of a run is stuck, in what, and since when.

Steps of several processes wait for each other, so that one process that waits for data, or has died, stops all of them.
Each keeps a line about itself in WORKDIR/processes/<index>.json; process 0 reads them all. When it has taken no step
and entered no phase for `patience` seconds, it logs one line, and another each time the wait has doubled:

    no progress for 600 s: process 2 (host-b, pid 71) in data at step 41 for 612 s; process 0, 1, 3 in step at step 42

Those who wait in a step wait for the others, which come first in the line. A process whose file is old has ended, or
its machine has. Each process that is stuck writes where its threads are to WORKDIR/processes/<index>.stacks.txt.
"""

import contextlib
import dataclasses
import faulthandler
import json
import logging
import os
import pathlib
import socket
import threading
import time
from collections.abc import Callable, Iterator

log = logging.getLogger("arch")
FOLDER = "processes"
STEP = "step"
"""The phase outside all others: steps are given to the devices and waited for, and logged."""


@dataclasses.dataclass(frozen=True)
class Line:
    """What a process tells of itself.

    Attributes:
      index, host, pid: which one it is.
      step: that it is at.
      phase: what it does.
      for_seconds: how long it has been in this phase of this step, when it was written.
      seconds: in each phase so far.
      age: seconds since it was written, by the clock of the file system.
    """

    index: int
    host: str
    pid: int
    step: int
    phase: str
    for_seconds: float
    seconds: dict[str, float]
    age: float = 0.0


class Watch:
    """Watches one process from a thread of its own.

    Args:
      workdir: of the run, the same for all of its processes.
      index, count: which process this is, and of how many.
      patience: seconds without progress after which it speaks; 0 to watch nothing.
      interval: seconds between two lines about itself.
      beat: called with each of these lines, in the watch's thread.
    """

    def __init__(
        self,
        workdir,
        *,
        index: int,
        count: int,
        patience: float,
        interval: float = 10.0,
        beat: Callable[[], None] = lambda: None,
    ):
        self._beat = beat
        self._folder, self._index, self._count = pathlib.Path(workdir) / FOLDER, index, count
        self._patience, self._interval = patience, min(interval, patience / 4)
        self._lock, self._seconds = threading.Lock(), {}
        self._step, self._phase, self._since = 0, STEP, time.monotonic()
        self._progress, self._spoken = self._since, 0.0
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watch", daemon=True)
        if patience:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._thread.start()

    @contextlib.contextmanager
    def phase(self, name: str):
        """What happens inside is this, and then again what was before."""
        before = self._phase
        self._enter(name)
        try:
            yield
        finally:
            self._enter(before)

    def step(self, step: int) -> None:
        """A step is taken."""
        self._enter(self._phase, step)

    def _enter(self, phase: str, step: int | None = None) -> None:
        now = time.monotonic()
        with self._lock:
            self._seconds[self._phase] = self._seconds.get(self._phase, 0.0) + now - self._since
            self._phase, self._step = phase, self._step if step is None else step
            self._since = self._progress = now

    def lines(self) -> list[Line]:
        """What all processes have told of themselves, by index."""
        return sorted(_lines(self._folder, self._count), key=lambda line: line.index) if self._patience else []

    def close(self) -> None:
        """Ends the thread."""
        self._end.set()
        if self._thread.is_alive():
            self._thread.join()

    def _watch(self) -> None:
        while True:
            with contextlib.suppress(OSError):  # a full disk is not for this thread to tell of
                self._write()
                self._beat()
            if self._end.wait(self._interval):
                return
            stuck = time.monotonic() - self._progress
            if stuck < self._patience:
                self._spoken = 0.0
            elif stuck >= max(self._patience, 2 * self._spoken):
                self._spoken = stuck
                with contextlib.suppress(OSError):
                    self._speak(stuck)

    def _speak(self, stuck: float) -> None:
        self._write()
        with open(self._folder / f"{self._index}.stacks.txt", "w", encoding="utf-8") as file:
            faulthandler.dump_traceback(file)
        if self._index == 0:
            log.warning("no progress for %.0f s: %s", stuck, describe(self.lines(), self._count, 3 * self._interval))

    def _write(self) -> None:
        with self._lock:
            for_seconds = time.monotonic() - self._since
            seconds = self._seconds | {self._phase: self._seconds.get(self._phase, 0.0) + for_seconds}
            line = Line(self._index, socket.gethostname(), os.getpid(), self._step, self._phase, for_seconds, seconds)
        path = self._folder / f"{self._index}.json"
        draft = path.with_suffix(".draft")
        draft.write_text(json.dumps({key: value for key, value in vars(line).items() if key != "age"}))
        draft.replace(path)


def describe(lines: list[Line], count: int, old: float) -> str:
    """Who is where: those not in a step first, each by itself; those in one together.

    Args:
      lines: what is known, by index.
      count: how many processes there are.
      old: seconds after which a line is no longer believed.
    """
    said, waiting = [], []
    for line in lines:
        name = f"process {line.index} ({line.host}, pid {line.pid})"
        if line.age > old:
            said.append(f"{name} has told nothing for {line.age:.0f} s, in {line.phase} at step {line.step}")
        elif line.phase == STEP:
            waiting.append(line)
        else:
            said.append(f"{name} in {line.phase} at step {line.step} for {line.for_seconds:.0f} s")
    missing = sorted(set(range(count)) - {line.index for line in lines})
    said += [f"process {index} has told nothing" for index in missing]
    for step in sorted({line.step for line in waiting}):
        indices = ", ".join(str(line.index) for line in waiting if line.step == step)
        said.append(f"process {indices} in step at step {step}")
    return "; ".join(said)


def _lines(folder: pathlib.Path, count: int) -> Iterator[Line]:
    """The lines that can be read; their age is counted from the newest one, which was written just now."""
    found = {}
    for index in range(count):
        path = folder / f"{index}.json"
        with contextlib.suppress(OSError, ValueError):
            found[index] = Line(**json.loads(path.read_text())), path.stat().st_mtime
    newest = max((written for _, written in found.values()), default=0.0)
    for line, written in found.values():
        yield dataclasses.replace(line, age=newest - written)
