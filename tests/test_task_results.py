"""What the heads of the tasks' configs promise was measured: `python -m benchmarks.tasks`."""

import json
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parents[1]
ROWS = json.loads((ROOT / "benchmarks" / "results" / "tasks-cpu.json").read_text())["rows"]
STATED = {
    "accuracy": r"accuracy ([\d.]+)",
    "loss": r"(?:validation loss|Expected:) +([\d.]+)(?: nats|,)",
    "bits_per_byte": r"([\d.]+) bits per byte",
    "untrained_loss": r"(?:a loss of|drawn blindly have) (\d+\.\d+)",
    "likeliest": r"validation split, ([\d.]+) of which",
    "processor_seconds": r"Time: +(\d+) s of processor time",
}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["config"])
def test_the_head_of_a_config_states_what_was_measured(row):
    head = (ROOT / "configs" / f"{row['config']}.py").read_text().split('"""')[1]
    head = re.sub(r"\s+", " ", head)
    stated = {name: found[1] for name, pattern in STATED.items() if (found := re.search(pattern, head))}
    assert len(stated) >= 3
    assert stated == {name: f"{row[name]:.{len(text.partition('.')[2])}f}" for name, text in stated.items()}
