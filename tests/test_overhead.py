"""What the README says that logging, the dashboard of mixtures, evaluations and checkpoints cost was measured."""

import json
import pathlib
import re

ROOT = pathlib.Path(__file__).parents[1]


def test_the_stated_costs_were_measured():
    results = json.loads((ROOT / "benchmarks" / "results" / "overhead-cpu.json").read_text())
    rows = {(row["name"], row["against"]): row for row in results["rows"]}
    stated = re.search(
        r"and (\d+) ms a step, the median cost of logging every step is (\d+) % .*?, and (\d+) % with the "
        r"dashboard .*?; an evaluation of two batches every 10 steps costs (\d+) %, histograms as often (\d+) %, a "
        r"checkpoint .*?, (\d+) %",
        " ".join((ROOT / "README.md").read_text(encoding="utf-8").split()),
    )
    assert int(stated[1]) == round(rows["nothing", "nothing"]["median_ms"])
    costs = [
        ("log_every_step", "nothing"),
        ("log_every_step", "log_without_dashboard"),
        ("evaluate_every_10_steps", "nothing"),
        ("histograms_every_10_steps", "nothing"),
        ("checkpoint_every_10_steps", "nothing"),
    ]
    assert [int(cost) for cost in stated.groups()[1:]] == [round(100 * rows[row]["overhead"]) for row in costs]
