"""What is kept of `benchmarks/pipeline_memory.py`: 1F1B's temporaries do not grow with micro-batches, GPipe's do."""

import json
import pathlib

import pytest

RESULTS = pathlib.Path(__file__).parents[1] / "benchmarks/results"
ROWS = json.loads((RESULTS / "pipeline_memory-cpu.json").read_text())["rows"]


def temporaries(schedule, remat):
    """By micro-batches, on 4 stages."""
    some = [row for row in ROWS if (row["stages"], row["schedule"], row["remat"]) == (4, schedule, remat)]
    return {row["micro_batches"]: row["temporaries_mib"] for row in some}


@pytest.mark.parametrize("remat", ["full", "none"])
def test_sixteen_times_the_micro_batches_take_1f1b_a_twentieth_more(remat):
    found = temporaries("1f1b", remat)
    assert found[64] < 21 / 20 * found[4]


def test_they_take_gpipe_four_times_as_much_and_at_64_it_has_seven_times_that_of_1f1b():
    found = temporaries("gpipe", "full")
    assert found[64] > 4 * found[4] and found[64] > 7 * temporaries("1f1b", "full")[64]
