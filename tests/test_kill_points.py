"""Runs that are killed at random moments and go on read the same rows and learn the same as one that nobody killed."""

import json
import random

import pytest

from benchmarks import kill_points, measure

ROWS = json.loads((measure.RESULTS / "kill_points-cpu.json").read_text())["rows"]


def check(chain, steps):
    """What has to hold of each chain, on any numbers of processes."""
    assert chain["same_rows"] and chain["steps"] == steps and chain["rows_read"] == 8 * steps
    assert chain["loss_difference"] == 0 and chain["loss_difference_same_count"] in (0, None)
    for point in chain["points"]:
        assert point["damaged"] == []


def test_none_of_fifty_kills_changed_a_row_or_a_loss_or_left_half_a_checkpoint():
    assert [chain["chain"] for chain in ROWS] == list(range(kill_points.CHAINS))
    for chain in ROWS:
        assert len(chain["points"]) == kill_points.POINTS
        check(chain, kill_points.STEPS)
    assert {count for chain in ROWS for count in chain["counts"]} == set(kill_points.COUNTS)
    assert sum(len(set(chain["counts"])) > 1 for chain in ROWS) >= 4  # the number changes on the way


@pytest.mark.slow
def test_three_kills_on_one_and_two_processes(tmp_path):
    runs = kill_points.Runs(tmp_path, steps=16)
    runs.finish("whole_1", 1)
    check(kill_points.chain(runs, 0, [1, 2, 1, 1], random.Random(2)), 16)
