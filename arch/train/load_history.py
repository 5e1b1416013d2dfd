"""Loads of all experts over a run's logged steps, and their picture: time to the right, an expert a line.

    layers/0   expert 0   . . . . .      white: the even load
               expert 1   . . . . .      blue: less; red: more, twice the even load or beyond
    layers/1   expert 0   . . . . .      a grey line between layers
"""

import json
import pathlib
import re
from collections.abc import Mapping

import numpy as np

from arch.train.report import colours

MAX_COLUMNS = 256
"""Of so many logged steps every second one is forgotten."""

_WIDTH, _LINE, _GAP, _GREY = 512, 6, 2, 128
_LOAD = re.compile(r"moe/(?P<layer>.+)/load/(?P<expert>\d+)")


class LoadHistory:
    """The loads so far.

    Args:
      metrics: a run's metrics.jsonl, whose earlier lines are read; it may be absent.
    """

    def __init__(self, metrics: pathlib.Path):
        self._columns: list[dict[str, np.ndarray]] = []
        self._every = self._skipped = 1
        lines = metrics.read_text(encoding="utf-8").splitlines(keepends=True) if metrics.exists() else ()
        for line in lines:
            if line.endswith("\n"):  # else another process is about to write the rest, or to drop this
                self.add(json.loads(line))

    def add(self, scalars: Mapping[str, float | None]) -> None:
        """A logged step's numbers, of which those called `moe/<layer>/load/<expert>` are kept."""
        column: dict[str, dict[int, float]] = {}
        for name, value in scalars.items():
            if found := _LOAD.fullmatch(name):
                column.setdefault(found["layer"], {})[int(found["expert"])] = value or 0.0
        if not column:
            return
        if self._skipped < self._every:
            self._skipped += 1
            return
        self._skipped = 1
        self._columns.append({layer: np.array([loads[i] for i in sorted(loads)]) for layer, loads in column.items()})
        if len(self._columns) == MAX_COLUMNS:
            self._columns, self._every = self._columns[1::2], 2 * self._every

    def image(self) -> np.ndarray | None:
        """[h w 3] uint8; None where no load was logged."""
        if not self._columns:
            return None
        width = max(1, _WIDTH // len(self._columns))
        gap = np.full((_GAP, width * len(self._columns), 3), _GREY, np.uint8)
        parts = []
        for layer in self._columns[-1]:
            loads = np.stack([column[layer] for column in self._columns], axis=1)
            even = 1 / len(loads)
            parts += [gap, colours(loads / even).repeat(_LINE, axis=0).repeat(width, axis=1)]
        return np.concatenate(parts[1:])
