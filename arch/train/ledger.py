"""What the processes of a run leave each other of their time: WORKDIR/goodput.json, written whole or not at all.

    {"alive": 1790000000.0, "done": false, "seconds": {"step": 81.5, "compile": 31.0, ...}}

`alive` is the last sign of life, in seconds since 1970: every few seconds while the run is watched (`watch_seconds`),
with each checkpoint, and at the end. The next process counts from there. What of the steps was kept is known by the
checkpoint that it goes on from: by then metrics.jsonl holds `perf/kept_seconds` of that step or an earlier one.
"""

import contextlib
import json
import logging
import os
import pathlib
import threading
import time

from arch.train.clock import Clock

log = logging.getLogger("arch")
FILE = "goodput.json"


def before(workdir, began: float) -> dict[str, float]:
    """Seconds of kept steps and by cause of all earlier processes of a run, and since the last one's sign of life.

    Args:
      workdir: of the run.
      began: `time.perf_counter()` when this process began.
    """
    file = pathlib.Path(workdir) / FILE
    if not file.exists():
        return {}
    try:
        found = json.loads(file.read_text())
        seconds, alive, done = found["seconds"], found["alive"], found["done"]
        down = seconds["down"] + max(time.time() - (time.perf_counter() - began) - alive, 0.0)
    except (ValueError, KeyError, TypeError) as error:
        log.warning("%s cannot be read (%s): goodput is counted anew", file, error)
        return {}
    return seconds if done else seconds | {"down": down}


def kept(workdir, step: int) -> tuple[float, int]:
    """(seconds of kept steps, skipped steps) up to `step` by metrics.jsonl, before the writer drops what is later."""
    file, seconds, skipped = pathlib.Path(workdir) / "metrics.jsonl", 0.0, 0
    for line in file.read_bytes().splitlines() if file.exists() else ():
        with contextlib.suppress(ValueError):  # a line cut short
            values = json.loads(line)
            if values["step"] <= step:
                seconds = values.get("perf/kept_seconds", seconds)
                skipped = int(values.get("train/skipped_steps", skipped))
    return seconds, skipped


class Ledger:
    """Writes the file of one run once that has begun; where it is not enabled (all processes but the first), nothing."""

    def __init__(self, workdir, clock: Clock, *, enabled: bool = True):
        self._file, self._clock, self._enabled = pathlib.Path(workdir) / FILE, clock, enabled
        self._lock = threading.Lock()
        self._begun = self._file.exists()

    def begin(self) -> None:
        """Says that the run has begun: before, a run that is refused leaves no file."""
        self._begun = True

    def write(self, *, done: bool = False) -> None:
        """Writes what the clock says.

        Args:
          done: the run is at its end; if it is made longer one day, nothing is lost until then.

        Raises:
          OSError: the file cannot be written.
        """
        if self._enabled and self._begun:
            with self._lock:
                draft = self._file.with_suffix(".draft")
                draft.write_text(json.dumps(dict(alive=time.time(), done=done, seconds=self._clock.seconds())))
                os.replace(draft, self._file)
