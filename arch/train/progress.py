"""The live line of a run on a terminal: how far, how good, how fast, how long still.

    demo   37.5%  750/2000  loss 2.314  41.2k tokens/s  0:01:12 left
"""

import contextlib
import io
import shutil
import sys
import time
from typing import Any

_REDRAW_SECONDS = 0.1
_MEMORY_SECONDS = 10.0


class Progress:
    """One line that is rewritten in place on a terminal; on anything else it stays quiet.

    Args:
      total_steps: the step at which the run ends.
      tokens_per_step: for the rate.
      start_step: where this process begins, after a resume.
      label: the line's first word, e.g. the config's name.
      stream: where the line goes; standard error unless given.
    """

    def __init__(
        self,
        total_steps: int,
        tokens_per_step: int,
        *,
        start_step: int = 0,
        label: str = "",
        stream: io.TextIOBase | None = None,
    ):
        self._total = total_steps
        self._tokens = tokens_per_step
        self._label = label
        self._stream = sys.stderr if stream is None else stream
        self._live = self._stream.isatty()
        self._step, self._time = start_step, time.monotonic()
        self._seconds_per_step = 0.0
        self._drawn = -1.0
        self._width = 0
        self._loss = ""

    def update(self, step: int, loss: Any = None) -> None:
        """Redraws the line, at most ten times a second. Without a loss, the last one stays: reading it costs a wait."""
        if not self._live:
            return
        now = time.monotonic()
        if loss is not None:
            self._loss = f"loss {float(loss):.3f}"
        if step > self._step:
            self._remember((now - self._time) / (step - self._step), now - self._time)
            self._step, self._time = step, now
        if now - self._drawn >= _REDRAW_SECONDS or step >= self._total:
            self._drawn = now
            self._draw(self.line())

    def line(self) -> str:
        """The line as text."""
        parts = [self._label, f"{self._step / max(self._total, 1):6.1%}", f"{self._step}/{self._total}", self._loss]
        if self._seconds_per_step:
            left = (self._total - self._step) * self._seconds_per_step
            parts += [f"{_short(self._tokens / self._seconds_per_step)} tokens/s", f"{hours(left)} left"]
        return "  ".join(part for part in parts if part)

    def clear(self) -> None:
        """Removes the line, so that something else can be printed; the next update draws it again."""
        if self._live and self._width:
            self._stream.write("\r" + " " * self._width + "\r")
            self._stream.flush()
            self._width, self._drawn = 0, -1.0

    @contextlib.contextmanager
    def paused(self):
        """Removes the line and stops the clock, for an evaluation or a checkpoint: they are no time of a step."""
        self.clear()
        start = time.monotonic()
        yield
        self._time += time.monotonic() - start

    def close(self) -> None:
        """Leaves the last line standing and moves below it."""
        if self._live and self._width:
            self._stream.write("\n")
            self._stream.flush()
            self._width = 0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def _remember(self, seconds_per_step: float, elapsed: float):
        """A running mean over about the last ten seconds."""
        weight = 1.0 if not self._seconds_per_step else min(1.0, elapsed / _MEMORY_SECONDS)
        self._seconds_per_step += weight * (seconds_per_step - self._seconds_per_step)

    def _draw(self, line: str):
        line = line[: shutil.get_terminal_size().columns - 1]
        self._stream.write("\r" + line.ljust(self._width))
        self._stream.flush()
        self._width = len(line)


def _short(number: float) -> str:
    for unit in ("", "k", "M"):
        if number < 999.5:
            return f"{number:.3g}{unit}"
        number /= 1000
    return f"{number:.4g}G"


def hours(seconds: float) -> str:
    """`1:04:51`, to the second."""
    hours, rest = divmod(round(seconds), 3600)
    return f"{hours}:{rest // 60:02}:{rest % 60:02}"
