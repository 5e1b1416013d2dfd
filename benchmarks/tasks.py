"""Trains the configs of the tasks that are not the next token, and writes what came of them.

    python -m benchmarks.tasks [config ...]

A row is a run: its last evaluation on the validation split, that of an untrained model beside it, the share of the
likeliest label where there are labels, and the time, of the clock and of all processors.
"""

import json
import pathlib
import resource
import subprocess
import sys
import tempfile
import time

import numpy as np

from arch.data import dataset
from benchmarks import measure

CONFIGS = "classify", "tag", "sft", "t5"
UNTRAINED = "--config.total_steps=1", "--config.optimizer.learning_rate=1e-30"


def run(name: str, workdir: pathlib.Path, *more: str) -> dict:
    """One run of a config in its own process: its last values and what it took."""
    command = [sys.executable, "run.py", f"--config=configs/{name}.py", f"--workdir={workdir}", *more]
    start, before = time.perf_counter(), _processor_seconds()
    subprocess.run(command, check=True)
    seconds, used = time.perf_counter() - start, _processor_seconds() - before
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    merged = {name: value for line in lines for name, value in line.items()}
    prefix = "eval/valid/"
    found = {name.removeprefix(prefix): round(x, 4) for name, x in merged.items() if name.startswith(prefix)}
    return {"steps": merged["step"], "wall_seconds": round(seconds, 1), "processor_seconds": round(used, 1)} | found


def labels(workdir: pathlib.Path) -> dict:
    """How many labels the validation split has, and the share of the likeliest; {} for a split without them."""
    data = dataset.load(workdir / "data")
    column = data.splits["valid"].columns.get("labels")
    if column is None:
        return {}
    counts = np.bincount(column[column >= 0])
    if not data.meta["labels"]:  # of a conversation: 1 for the tokens of answers
        return {"valid_labels": int(counts[1])}
    return {"valid_labels": int(counts.sum()), "likeliest": round(float(counts.max() / counts.sum()), 4)}


def row(name: str, folder: pathlib.Path) -> dict:
    """All that is measured of a config."""
    found = run(name, folder / "trained")
    untrained = run(name, folder / "untrained", *UNTRAINED)
    return {"config": name} | found | {"untrained_loss": untrained["loss"]} | labels(folder / "trained")


def _processor_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main(names: list[str]) -> None:
    """Trains the configs and writes benchmarks/results/tasks-cpu.json."""
    with tempfile.TemporaryDirectory() as folder:
        measure.write("tasks", [row(name, pathlib.Path(folder) / name) for name in names])


if __name__ == "__main__":
    main(sys.argv[1:] or list(CONFIGS))
