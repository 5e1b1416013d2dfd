"""The numbers of a sweep of `config.py` as one file, and the README's table of them beside the paper's.

    python -m experiments.recall_and_induction.collect WORKDIR     results/small.json, README.md; prints the table
    python -m experiments.recall_and_induction.collect             the table of results/small.json again
"""

import itertools
import json
import pathlib
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from experiments import record
from experiments.recall_and_induction.config import MIXERS, TASKS

HERE = pathlib.Path(__file__).parent
README, RESULTS, PAPER = HERE / "README.md", HERE / "results" / "small.json", HERE / "paper.json"
COMMAND = "python run.py --config=experiments/recall_and_induction/config.py:small --workdir=WORKDIR --mode=sweep"
LEARNED = 0.97
"""Accuracy from which on a task counts as learned: "scores > 97", as the paper's released code says of H3."""


def collect(workdir: pathlib.Path) -> dict[str, Any]:
    """What a finished sweep measured. Raises ValueError where a point is not finished."""
    rows, points = [], record.finished(workdir)
    for point in points:
        row = dict(option.split("=") for option in point.overrides["arg"].split(","))
        row |= {name: round(point.last[f"eval/valid/{name}"], 4) for name in ("accuracy", "loss")}
        evaluated = [line for line in record.lines(workdir, point) if "eval/valid/accuracy" in line]
        row |= dict(steps=point.step, seed=point.config["seed"], seconds=round(point.seconds))
        rows.append(row | dict(by_step={line["step"]: round(line["eval/valid/accuracy"], 3) for line in evaluated}))
    return record.of(workdir, points, command=COMMAND, rows=rows)


def table(rows: Sequence[Mapping[str, Any]], paper: Sequence[Mapping[str, Any]]) -> str:
    """The README's table: accuracies in percent, of each task ours and the paper's, bold where it is learned."""
    ours = dict.fromkeys(itertools.product(MIXERS, TASKS), "not run")
    ours |= {(row["mixer"], row["task"]): _percent(row["accuracy"]) for row in rows}
    theirs = {(row["mixer"], task): _percent(row[task] / 100) for row in paper for task in TASKS}
    head = ["mixer", *(f"{task}, {whose}" for task in TASKS for whose in ("ours", "paper"))]
    names = dict.fromkeys([*MIXERS, *(row["mixer"] for row in paper)])
    cells = lambda name: (side.get((name, task), "") for task in TASKS for side in (ours, theirs))
    return record.table(head, ([name, *cells(name)] for name in names))


def _percent(accuracy: float) -> str:
    return f"**{accuracy:.1%}**" if accuracy >= LEARNED else f"{accuracy:.1%}"


def tabulated(readme: str, table: str) -> str:
    """The README with this table in the place of the one that it has."""
    return re.sub(r"(?:^\|.*\n)+", lambda _: f"{table}\n", readme, count=1, flags=re.MULTILINE)


def main(argv: Sequence[str]) -> None:
    """Of the command line, without the program's name."""
    if argv:
        record.write(RESULTS, collect(pathlib.Path(argv[0])))
    made = table(*(json.loads(file.read_text())["rows"] for file in (RESULTS, PAPER)))
    README.write_text(tabulated(README.read_text(), made))
    print(made)


if __name__ == "__main__":
    main(sys.argv[1:])
