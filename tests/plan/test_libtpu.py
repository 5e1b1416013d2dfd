"""Plans for TPUs that are not here, compiled by libtpu: a process of its own, which must not look for a TPU."""

import importlib.util
import json

import pytest

from arch.plan import tiles
from tests.commands import run_process

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed"),
]


def planned(folder, *flags):
    done = run_process("--config=tests/tiny_config.py:mlp", "--mode=plan", f"--workdir={folder}", *flags)
    assert done.status == 0, done.error
    return done.out, json.loads((folder / "plan.json").read_text())


def test_a_tiny_model_is_planned_on_four_chips(tmp_path):
    out, plan = planned(tmp_path, "--topology=v5e:2x2", "--config.mesh.fsdp=2")
    assert plan["compiled"] and plan["fits"] and plan["device"] == "TPU v5 lite"
    assert plan["train"]["flops"] > plan["decode"]["flops"] > 0
    assert {axis for row in plan["train"]["collectives"] for axis in row["axes"]} == {"data", "fsdp"}
    state = sum(plan["state"].values())
    assert state <= plan["train"]["memory"]["arguments"] < state + 2**21  # tiles of 8 x 128 around tiny arrays
    assert "It fits." in out


def test_means_in_the_host_s_memory_take_none_of_the_device_s(tmp_path):
    """Of four layers that are stacked: the loop of the update holds the means of one layer's weight."""
    wide = ["model.embed_dim=512", "model.layers.pattern[0].sublayers[0].hidden_dim=2048", "model.layers.repeats=4"]
    flags = ["--topology=v5e:2x2", *(f"--config.{leaf}" for leaf in ["mesh.fsdp=4", "sample_prompt=", *wide])]
    device, host = (planned(tmp_path / h, *flags, f"--config.optimizer.offload={h}")[1] for h in ("none", "host"))
    needed = lambda plan: sum(plan["train"]["memory"][part] for part in ("arguments", "heap"))
    moments = device["state"]["optimizer"]
    assert host["state"]["optimizer"] == 2 * tiles.size((), 4) < moments  # two counts, each in a tile
    assert needed(device) - needed(host) > 0.75 * moments


def test_two_slices_are_crossed_by_the_data_axis_alone(tmp_path):
    _, plan = planned(tmp_path, "--topology=v5e:2x2,slices=2", "--config.mesh.fsdp=4")
    rows = plan["train"]["collectives"]
    assert {axis for row in rows if row["link"] == "between slices" for axis in row["axes"]} >= {"data"}
    assert all("data" not in row["axes"] for row in rows if row["link"] == "links")
    assert plan["train"]["seconds"]["between_s"] > 0


def test_axes_that_are_no_products_of_a_slice_s_sides_share_one(tmp_path):
    axes = "batch_size=32", "mesh.data=32", "mesh.tensor=2"
    _, plan = planned(tmp_path, "--topology=v5p:4x4x4", *(f"--config.{leaf}" for leaf in axes))
    assert plan["fits"] and plan["mesh"] == {"data": 32, "tensor": 2}


def test_a_slice_that_does_not_exist_is_named(tmp_path):
    flags = ["--mode=plan", "--topology=v5e:3x3", f"--workdir={tmp_path}"]
    done = run_process("--config=tests/tiny_config.py", *flags)
    assert done.status == 2 and done.error.startswith("error: --topology=v5e:3x3 must be a slice that libtpu knows: ")
    assert done.error.count("\n") == 1


def test_the_search_compiles_the_best(tmp_path):
    _, plan = planned(tmp_path, "--topology=v5e:2x2", "--plan_search", "--plan_compiles=1")
    (row,) = plan["tried"]
    assert row["plan"]["fits"] and row["plan"]["compiled"]
