"""The ratios by which the kernels are judged, each with its floor and its aim, from rows of one run.

A ratio above 1 means that ours takes less time. What cannot be computed says why.
"""

import dataclasses
import json
import pathlib
from collections.abc import Callable

from benchmarks import measure
from benchmarks.gpu.names import PARTS

BOTH = "forward+backward"


class Absent(LookupError):
    """A row that there is not, or that has no time; the message says which and why."""


class Rows:
    """What is kept of all parts.

    Attributes:
      parts: the file of each part that there is.
    """

    def __init__(self, folder: pathlib.Path | None = None):
        paths = {part: (folder or measure.RESULTS) / f"gpu-{part}.json" for part in PARTS}
        self.parts = {part: json.loads(path.read_text()) for part, path in paths.items() if path.exists()}

    def of(self, part: str) -> list[dict]:
        """All rows of a part."""
        return [
            row for piece in self.parts.get(part, {"pieces": {}})["pieces"].values() for row in piece.get("rows", ())
        ]

    def failed(self) -> list[tuple[str, str, str]]:
        """(part, piece, why) of pieces without rows."""
        pieces = [(part, *item) for part, found in self.parts.items() for item in found["pieces"].items()]
        return [(part, name, entry["failed"]) for part, name, entry in pieces if "failed" in entry]

    def time(self, part: str, contest: str, side: str, what: str) -> float:
        """Median milliseconds. Raises Absent."""
        return self._one(part, "median_ms", contest=contest, side=side, what=what)["median_ms"]

    def backward(self, part: str, contest: str, side: str) -> float:
        """Milliseconds of the gradients alone."""
        return self.time(part, contest, side, BOTH) - self.time(part, contest, side, "forward")

    def value(self, part: str, field: str, **where) -> float:
        """A field of the one row that is so. Raises Absent."""
        return self._one(part, field, **where)[field]

    def _one(self, part, field, **where):
        found = [row for row in self.of(part) if all(row.get(name) == wanted for name, wanted in where.items())]
        if not found:
            raise Absent(f"not run: {part}, {' '.join(map(str, where.values()))}")
        if field not in found[0]:
            why = found[0].get("missing") or found[0].get("error") or f"no {field}"
            raise Absent(f"{' '.join(map(str, where.values()))}: {why}")
        return found[0]


@dataclasses.dataclass(frozen=True)
class Goal:
    """A number that should be at least `floor`, and better `aim`; 0 where it is told and not judged.

    Attributes:
      name: what it is.
      value: of the rows. Raises Absent.
      floor: see above.
      aim: see above.
    """

    name: str
    value: Callable[[Rows], float]
    floor: float = 0.0
    aim: float = 0.0


def _speed(
    part: str, contest: str, other: str, what: str, floor=0.0, aim=0.0, *, ours: str = "own", other_contest=""
) -> Goal:
    """The other side's time over ours."""

    def value(rows):
        return rows.time(part, other_contest or contest, other, what) / rows.time(part, contest, ours, what)

    return Goal(f"{contest}: {ours} / {other_contest and f'{other_contest} by '}{other}, {what}", value, floor, aim)


def _density(contest: str) -> list[Goal]:
    """The share of the density bound: the same share of our own time over all pairs, over the time that it takes."""
    part = "sparse_attention"

    def share(time):
        def value(rows):
            density = rows.value(part, "density", contest=contest, side="own", what="forward")
            return density * time(rows, "all pairs") / time(rows, contest)

        return value

    forward = share(lambda rows, which: rows.time(part, which, "own", "forward"))
    backward = share(lambda rows, which: rows.backward(part, which, "own"))
    names = (f"{contest}: share of the density bound, {what}" for what in ("forward", "backward"))
    return [Goal(next(names), forward, 0.80, 0.90), Goal(next(names), backward, 0.65, 0.80)]


def _bandwidth() -> Goal:
    """WKV's bytes a second over a copy's."""

    def value(rows):
        mine = rows.value("recurrences", "tb_s", contest="wkv", side="own", what=BOTH)
        return mine / rows.value("recurrences", "tb_s", contest="copy", side="xla", what="forward")

    return Goal(f"wkv: share of copy bandwidth, {BOTH}", value, 0.5, 0.7)


def _utilization(model: str, floor: float, aim: float) -> Goal:
    return Goal(f"{model}: MFU of a training step", lambda rows: rows.value("training", "mfu", model=model), floor, aim)


def _grouped() -> list[Goal]:
    goals = []
    for shape in ("Mixtral 8x7B", "DeepSeekMoE 16B"):
        for groups in ("even", "4:1"):
            contest = f"{shape}, {groups}"
            goals += [_speed("grouped_matmul", contest, "torch", what, 0.85, 1.0) for what in ("forward", BOTH)]
            goals += [_speed("grouped_matmul", contest, "tokamax", "forward")]
            goals += [_speed("grouped_matmul", contest, "jla", what) for what in ("forward", BOTH)]
    return goals


DENSE, WINDOW = "causal 8k", "window 1024 at 32k"
GOALS = [
    _speed("dense_attention", DENSE, "cudnn", "forward", 0.98, 1.0, ours="default"),
    _speed("dense_attention", DENSE, "cudnn", BOTH, 0.98, 1.0, ours="default"),
    _speed("dense_attention", DENSE, "cudnn", "forward", 0.80, 0.92),
    _speed("dense_attention", DENSE, "cudnn", BOTH, 0.65, 0.85),
    _speed("dense_attention", DENSE, "tokamax", BOTH),
    _speed("dense_attention", DENSE, "jla", BOTH),
    _speed("dense_attention", WINDOW, "cudnn", BOTH, 0.8, 1.0),
    _speed("dense_attention", WINDOW, "tokamax", BOTH, 3.0, 6.0),
    _speed("dense_attention", WINDOW, "jla", BOTH),
    *_density("longformer"),
    *_density("bigbird"),
    *(_speed("sparse_attention", contest, "flex", BOTH, 1.0, 1.4) for contest in ("longformer", "bigbird")),
    _speed("sparse_attention", "bigbird an eighth", "cudnn", BOTH, 3.0, 5.0, other_contest="all pairs"),
    _speed("recurrences", "mamba", "mamba-ssm", BOTH, 0.9, 1.3),
    _speed("recurrences", "mamba", "xla", BOTH, 10.0, 30.0),
    _speed("recurrences", "mamba", "jla", BOTH),
    _speed("recurrences", "ssd", "mamba-ssm", BOTH, 0.8, 1.1),
    _speed("recurrences", "ssd", "jla", BOTH),
    _speed("recurrences", "performer", "fla", BOTH, 0.8, 1.1),
    _speed("recurrences", "wkv", "fla", BOTH, 1.0, 1.3),
    _bandwidth(),
    *_grouped(),
    _utilization("dense", 0.40, 0.57),
    _utilization("moe", 0.25, 0.40),
    _utilization("mamba2", 0.30, 0.40),
]


def judged(goal: Goal, rows: Rows) -> tuple[str, str]:
    """The value, and how it stands: 'aim', 'floor', 'below', 'told', or why there is none."""
    try:
        value = goal.value(rows)
    except Absent as absent:
        return "", str(absent)
    marks = (("aim", goal.aim), ("floor", goal.floor)) if goal.floor else (("told", 0.0),)
    return f"{value:.3g}", next((mark for mark, least in marks if value >= least), "below")
