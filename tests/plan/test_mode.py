"""`--mode=plan` from the command line: it prints and keeps a plan without a device, or says in a line why it cannot."""

import json

import pytest

from arch.plan import mode
from arch.train import experiment
from tests.commands import run_process
from tests.train import tiny

HOW = dict(price=0.0, searches=False, compiles=1)


def test_run_py_plans_for_gpus_that_are_not_here(tmp_path):
    flags = ["--mode=plan", "--topology=h200:8", f"--workdir={tmp_path}", "--price_per_chip_hour=3"]
    done = run_process("--config=tests/tiny_config.py", *flags, "--config.mesh.fsdp=4")
    assert (done.status, done.error) == (0, "")
    kept = json.loads((tmp_path / "plan.json").read_text())
    assert kept["mesh"] == {"data": 2, "fsdp": 4} and kept["compiled"] is False and kept["fits"]
    assert kept["cost_per_billion_tokens"] > 0 and "It fits." in done.out
    assert f"{kept['parameters']['total']:,}" in done.out
    assert list((tmp_path / "tensorboard" / "plan").glob("*tfevents*"))


def test_run_py_says_in_one_line_what_is_missing(tmp_path):
    done = run_process("--config=tests/tiny_config.py", "--mode=plan", f"--workdir={tmp_path}")
    assert (done.status, done.error) == (2, "error: --topology is missing\n")


@pytest.mark.parametrize("where, sizes, rule", [
    ("v5q:2x2", {}, "--topology='v5q:2x2' must be CHIP:SHAPE"),
    ("h200:8", dict(fsdp=3), "mesh.fsdp=3, .*must multiply to the number of devices, 8"),
    ("h200:4,slices=2", dict(data=1, fsdp=8), "mesh.data=1 must be a multiple of slices=2 in --topology"),
    ("h200:6", dict(data=6), "batch_size=8 / micro_batches=1 = 8 rows must be a multiple of mesh.data"),
])  # fmt: skip
def test_what_contradicts_itself_is_refused(where, sizes, rule, tmp_path):
    cfg = experiment.from_dict(tiny.fields() | dict(mesh=sizes))
    with pytest.raises(ValueError, match=rule):
        mode.plan(cfg, tmp_path, where, **HOW)
