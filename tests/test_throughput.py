"""What the README says of training on CPU was measured, beside transformers at the same training in the same run."""

import json
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "throughput-cpu.json"
if not RESULTS.exists():
    pytest.skip("python -m benchmarks.throughput has not been run", allow_module_level=True)
ROWS = {row["name"]: row for row in json.loads(RESULTS.read_text())["rows"]}
MODELS = pytest.mark.parametrize("model", ["gpt", "llama"])


def test_the_stated_speeds_were_measured():
    stated = re.search(
        r"train in float32 on two CPU cores at (\d+) and (\d+) tokens/s, ([\d.]+) and ([\d.]+) times what transformers "
        r"([\d.]+) does .*?, at (\d+) and (\d+) % of the speed of matrix products alone .*?"
        r"by medians, .*?, it is ([\d.]+) and ([\d.]+) times",
        " ".join((ROOT / "README.md").read_text(encoding="utf-8").split()),
    )
    for i, model in enumerate(("gpt", "llama")):
        both = ROWS[f"{model} arch / transformers"]
        assert int(stated[1 + i]) == ROWS[f"{model} arch"]["best_tokens_per_second"]
        assert float(stated[3 + i]) == round(both["best_ratio"], 2)
        assert stated[5] == ROWS[f"{model} transformers"]["transformers"]
        assert int(stated[6 + i]) == round(100 * both["share_of_the_limit"])
        assert float(stated[8 + i]) == round(both["median_ratio"], 2)


@MODELS
def test_the_ratios_are_those_of_the_speeds(model):
    ours, theirs, both = (ROWS[f"{model} {side}"] for side in ("arch", "transformers", "arch / transformers"))
    for which in ("best", "median"):
        speeds = [side[f"{which}_tokens_per_second"] for side in (ours, theirs)]
        assert abs(both[f"{which}_ratio"] - speeds[0] / speeds[1]) < 0.001


@MODELS
def test_both_trained_the_same_model(model):
    assert ROWS[f"{model} arch"]["parameters"] == ROWS[f"{model} transformers"]["parameters"]
    assert ROWS[f"{model} arch / transformers"]["greatest_loss_difference"] < 1e-4


@MODELS
def test_the_share_of_the_limit_is_that_of_the_fastest_product(model):
    both, step = ROWS[f"{model} arch / transformers"], ROWS[f"{model} arch"]["best_s"]
    fastest = max(both["xla_gflops"] + both["torch_gflops"])
    assert abs(both["share_of_the_limit"] - both["gflop_a_step"] / fastest / step) < 0.002


@MODELS
def test_the_parts_make_the_step(model):
    parts = {name: value for name, value in ROWS[f"{model} parts in seconds"].items() if name != "name"}
    whole = sum(value for name, value in parts.items() if " of " not in name)
    assert abs(whole - ROWS[f"{model} arch"]["best_s"]) < 0.001
