"""The numbers of a finished sweep, and of what machine, versions and commit they are: `results/<size>.json`."""

import dataclasses
import json
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from arch.train import measured, results

Row = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Point:
    """A finished point of a sweep, as a claim reads it.

    Attributes:
      folder: of its run.
      result: its record.
    """

    folder: pathlib.Path
    result: results.Result

    @property
    def options(self) -> dict[str, Any]:
        """What the sweep set: the options of the config's argument, and leaves by their last name."""
        given = dict(self.result.overrides)
        parts = (part.rpartition("=") for part in filter(None, given.pop("arg", "").split(",")))
        options = {name or "size": value for name, _, value in parts}
        return options | {path.rsplit(".", 1)[-1]: value for path, value in given.items()}

    @property
    def last(self) -> dict[str, float]:
        """The metrics of the last evaluation."""
        return self.result.last

    def logged(self) -> list[dict[str, Any]]:
        """What the run logged, a mapping a line, in order."""
        return [json.loads(line) for line in (self.folder / "metrics.jsonl").read_text().splitlines()]

    def measured(self) -> list[dict[str, Any]]:
        """The rows of a point that was measured, not trained."""
        return measured.read(self.folder)


def points(workdir: pathlib.Path) -> list[Point]:
    """The points of a sweep that have begun. Raises ValueError where there is none, or one of them is not finished."""
    found = results.read(workdir)
    if not found:
        raise ValueError(f"{workdir} holds no point of a sweep: --mode=sweep comes first")
    for result in found:
        if result.status != "finished":
            raise ValueError(f"point {result.index} of {workdir} is {result.status}, and must be finished")
    return [Point(workdir / result.folder, result) for result in found]


def of(workdir: pathlib.Path, rows_of: Callable[[Point], Sequence[Row]]) -> dict[str, Any]:
    """The record of a finished sweep.

    Args:
      workdir: of the sweep.
      rows_of: a point's rows.

    Returns:
      `date`, `device`, `versions` of the first point; `commits` of all; `seconds` that each point took; `rows`.
    """
    found = points(workdir)
    runs = [json.loads((point.folder / "versions.json").read_text())[-1] for point in found]
    first, device = runs[0], runs[0]["device"]
    cpus = f", {device['cpus']} processors" if device.get("cpus") else ""
    return dict(
        date=first["date"][:10],
        device=f"{device['count']} {device['kind']}{cpus}",
        platform=first["platform"],
        versions=dict(python=first["python"]) | first["packages"],
        commits=sorted({run["source"].get("commit", "none") for run in runs}),
        seconds=[round(point.result.seconds) for point in found],
        rows=[row for point in found for row in rows_of(point)],
    )


def write(file: pathlib.Path, record: Mapping[str, Any]) -> None:
    """Writes a record as JSON, a line a row of it."""
    file.parent.mkdir(exist_ok=True)
    rows = ",\n".join(f"    {json.dumps(row)}" for row in record["rows"])
    rest = {key: value for key, value in record.items() if key != "rows"}
    file.write_text(f'{json.dumps(rest, indent=2)[:-2]},\n  "rows": [\n{rows}\n  ]\n}}\n')
