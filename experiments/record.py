"""What every experiment does with a sweep: see that it is done, keep its numbers and their origin, tabulate them."""

import json
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from arch.train import results


def finished(workdir: pathlib.Path) -> list[results.Result]:
    """The points of a sweep that have begun. Raises ValueError where one of them is not finished."""
    found = results.read(workdir)
    for result in found:
        if result.status != "finished":
            raise ValueError(f"point {result.index} of {workdir} is {result.status}, and must be finished")
    return found


def lines(workdir: pathlib.Path, point: results.Result) -> list[dict[str, Any]]:
    """What a point logged, in order."""
    return [json.loads(line) for line in (workdir / point.folder / "metrics.jsonl").read_text().splitlines()]


def of(workdir: pathlib.Path, points: Sequence[results.Result], *, command: str, rows: Sequence) -> dict[str, Any]:
    """Numbers, and the command, date, device, versions and commits of the runs that gave them."""
    runs = [json.loads((workdir / point.folder / "versions.json").read_text())[-1] for point in points]
    first = runs[0]
    return dict(
        command=command,
        date=first["date"][:10],
        device=f"{first['device']['kind']}, {first['platform']}",
        versions=dict(python=first["python"]) | first["packages"],
        commits=sorted({run["source"]["commit"] for run in runs}),
        rows=list(rows),
    )


def write(file: pathlib.Path, record: Mapping[str, Any]) -> None:
    """Writes a record as JSON, a line a row of it."""
    rows = ",\n".join(f"    {json.dumps(row)}" for row in record["rows"])
    rest = {key: value for key, value in record.items() if key != "rows"}
    file.write_text(f'{json.dumps(rest, indent=2)[:-2]},\n  "rows": [\n{rows}\n  ]\n}}\n')


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A Markdown table."""
    line, head = lambda cells: f"| {' | '.join(cells)} |", list(head)
    return "\n".join([line(head), f"|{'---|' * len(head)}", *map(line, rows)])
