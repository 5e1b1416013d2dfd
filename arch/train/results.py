"""What became of a sweep's points: a record in each one's folder, and a table that is a function of the records.

    WORKDIR/3-seed=1/result.json     one point: overrides, config, status, step, evaluations, seconds, error
    WORKDIR/results.json             all of them, by index, without their configs
    WORKDIR/results.tsv              the same, a line a point, for a spreadsheet

A status is running, finished, stopped (by a signal; the same command goes on) or failed. `last` is the last evaluation,
`best` the one with the lowest loss.
"""

import dataclasses
import json
import math
import pathlib
from typing import Any

from arch import config
from arch.train import experiment, provenance

FILE = "result.json"


@dataclasses.dataclass
class Result:
    """How far a point has come.

    Attributes:
      index: of the point.
      folder: its name.
      overrides: what the sweep sets.
      config: the whole config, its lengths in the units of the sweep.
      status: running, finished, stopped or failed.
      step: the last with metrics or a checkpoint.
      last: the metrics of the last evaluation.
      best: those of the evaluation with the lowest loss, and its `step`.
      seconds: of all starts together.
      error: first line of what went wrong.
    """

    index: int
    folder: str
    overrides: dict[str, Any]
    config: dict[str, Any]
    status: str = "running"
    step: int = 0
    last: dict[str, Any] = dataclasses.field(default_factory=dict)
    best: dict[str, Any] = dataclasses.field(default_factory=dict)
    seconds: float = 0.0
    error: str = ""


def write(workdir: pathlib.Path, result: Result) -> None:
    """Writes a point's record, with what its folder holds of steps and metrics, and then the table anew."""
    folder = workdir / result.folder
    folder.mkdir(parents=True, exist_ok=True)
    result.step, result.last, result.best = measured(folder)
    provenance.write_json(folder / FILE, dataclasses.asdict(result))
    update_table(workdir)


def read(workdir: pathlib.Path) -> list[Result]:
    """The records of all points that have begun, by index. Raises ValueError for one that is none."""
    found = []
    for file in pathlib.Path(workdir).glob(f"[0-9]*-*/{FILE}"):
        try:
            found.append(Result(**json.loads(file.read_text())))
        except (ValueError, TypeError):
            raise ValueError(f"{file} is no record of a sweep's point that arch has written") from None
    return sorted(found, key=lambda result: result.index)


def check_done(workdir: pathlib.Path, result: Result, cfg: experiment.Config) -> None:
    """Refuses another config for a run that is done: its record would tell of one that it never had.

    Raises:
      ValueError: naming each leaf that changed, with its old and new value.
    """
    folder = workdir / result.folder
    run = provenance.read_config(folder)
    if run is None or result.step < run["total_steps"]:
        return
    old = config.to_dict(experiment.from_dict(result.config))  # leaves that are newer than the record have defaults
    changed = provenance.diff(old, config.to_dict(cfg))
    if changed := [line for line in changed if not line.startswith(experiment.LATER)]:
        raise ValueError(
            f"the run in {folder} is done, with another config: {'; '.join(changed)}. Undo the change, or take another "
            "workdir"
        )


def update_table(workdir: pathlib.Path) -> None:
    """Writes both tables from the records, again until they hold the newest, whoever else may write them meanwhile."""
    written = None
    while (now := [_row(result) for result in read(workdir)]) != written:
        provenance.write_json(workdir / "results.json", now)
        provenance.write_whole(workdir / "results.tsv", _tsv(now))
        written = now


def _row(result: Result) -> dict[str, Any]:
    return {key: value for key, value in dataclasses.asdict(result).items() if key != "config"}


def _tsv(rows: list[dict]) -> str:
    """Tab-separated: one column a leaf of the sweep, and one a metric."""
    flat = []
    for row in rows:
        best = {f"best/{name.removeprefix('eval/')}": value for name, value in row["best"].items()}
        leaves = {"index": row["index"], "status": row["status"]} | row["overrides"]
        ends = {key: row[key] for key in ("seconds", "folder", "error")}
        flat.append((leaves, {"step": row["step"]} | row["last"], best, ends))
    columns = [dict.fromkeys(name for parts in flat for name in parts[i]) for i in range(4)]
    lines = [[name for part in columns for name in part]]
    lines += [[_cell(values.get(name, "")) for values, part in zip(parts, columns) for name in part] for parts in flat]
    return "".join("\t".join(line) + "\n" for line in lines)


def _cell(value: Any) -> str:
    return " ".join(str(value).split()) if value is not None else "nan"


def measured(folder: pathlib.Path) -> tuple[int, dict, dict]:
    """The last step, the last evaluation and the best one that a run's folder tells of."""
    step = max((int(path.name) for path in (folder / "checkpoints").glob("[0-9]*") if path.name.isdigit()), default=0)
    evaluations = []
    file = folder / "metrics.jsonl"
    for line in file.read_text(encoding="utf-8").splitlines() if file.exists() else ():
        try:
            metrics = json.loads(line)
        except ValueError:  # the line that a killed run was writing
            continue
        step = max(step, metrics["step"])
        held = {name: value for name, value in metrics.items() if name.startswith("eval/")}
        if held:
            evaluations.append({"step": metrics["step"]} | held)
    if not evaluations:
        return step, {}, {}
    last = {name: value for name, value in evaluations[-1].items() if name != "step"}
    return step, last, min(evaluations, key=_loss)


def _loss(evaluation: dict) -> float:
    """The loss over the whole validation split, else the first there is."""
    names = sorted((name for name in evaluation if name.endswith("loss")), key=lambda name: name != "eval/valid/loss")
    value = evaluation[names[0]] if names else None
    return math.inf if value is None else value
