"""What is kept of `benchmarks/pipeline_plan.py`: on TPUs too 1F1B's memory does not grow with micro-batches."""

import json
import pathlib

import pytest

RESULTS = pathlib.Path(__file__).parents[1] / "benchmarks/results"
ROWS = json.loads((RESULTS / "pipeline_plan.json").read_text()).values()
ALL = pytest.mark.parametrize("model", ["small", "llama.llama3_2_1b"])
FEW, MANY = 8, 32


def row(model, schedule, micro_batches):
    (found,) = [
        row for row in ROWS if (row["model"], row["schedule"], row["micro_batches"]) == (model, schedule, micro_batches)
    ]
    return found


def beside(*which):
    """Bytes of a device at the peak, without the arguments."""
    sizes = row(*which)["train"]["memory"]
    return sizes["peak"] - sizes["arguments"]


@ALL
def test_four_times_the_micro_batches_take_1f1b_a_hundredth_more_and_gpipe_what_it_keeps(model):
    assert beside(model, "1f1b", MANY) < 1.01 * beside(model, "1f1b", FEW)
    kept = row(model, "gpipe", MANY)["kept"] - row(model, "gpipe", FEW)["kept"]
    assert beside(model, "gpipe", MANY) - beside(model, "gpipe", FEW) > kept


@ALL
@pytest.mark.parametrize("micro_batches", [FEW, MANY])
def test_1f1b_takes_less_and_computes_at_most_one_more_forward_pass_of_four(model, micro_batches):
    both = [(model, schedule, micro_batches) for schedule in ("1f1b", "gpipe")]
    assert beside(*both[0]) < beside(*both[1])
    mine, other = (row(*which)["train"]["flops"] for which in both)
    assert 1.2 < mine / other < 1.25


@ALL
@pytest.mark.parametrize("schedule", ["1f1b", "gpipe"])
def test_loops_are_counted_by_their_trips(model, schedule):
    """Layers are computed at 35 ticks, not 11, and four times as many losses."""
    many, few = (row(model, schedule, count)["train"]["flops"] for count in (MANY, FEW))
    assert (MANY + 3) / (FEW + 3) < many / few < MANY / FEW
