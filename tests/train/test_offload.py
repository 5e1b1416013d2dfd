"""Means in the host's memory or in files are those beside the weights: for an update, a run, and over a resume."""

import signal

import jax
import numpy as np
import optax
import pytest

from arch.train import setup
from arch.train import optimizer as optimizers
from arch.train.disk import Disk
from tests.train import tiny
from tests.train.test_optimizer import AXES, GRADIENTS, KINDS, PARAMS

ELSEWHERE = ["host", "disk"]


def after(kind, how, folder, taken):
    """Parameters and the optimizer's state behind steps, as arrays of NumPy."""
    disk = Disk(folder / how)
    cfg = optimizers.Config(kind=kind, offload=how, learning_rate=0.5, rate_factors=(("layers/1/", 0.5),))
    optimizer = cfg.make(10, lambda: AXES, disk)
    update = jax.jit(optax.with_extra_args_support(optimizer).update)
    params, state = PARAMS, optimizer.init(PARAMS)
    for step_is_taken in taken:
        updates, new = update(GRADIENTS, state, params, taken=step_is_taken)
        if step_is_taken:
            params = optax.apply_updates(params, updates)
        state = new if step_is_taken or how != "none" else state  # without, the step itself leaves what is not taken
    found = params, disk.whole(state)
    return [np.copy(leaf) for leaf in jax.tree.leaves(found) if leaf.ndim]


@pytest.mark.parametrize("how", ELSEWHERE)
@pytest.mark.parametrize("kind", [pytest.param(k, marks=[pytest.mark.slow] * (k != "adamw")) for k in KINDS])
def test_updates_are_those_of_means_beside_the_weights(kind, how, tmp_path):
    """Of three steps, the second of which is not taken."""
    expected, actual = (after(kind, where, tmp_path, (True, False, True)) for where in ("none", how))
    assert len(expected) > 2 * len(AXES) - 1
    rounding = 1e-5 if kind == "muon" else 1e-6  # five Newton-Schulz steps make it grow
    for one, other in zip(actual, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=rounding)


def test_files_are_of_one_process(text, tmp_path, monkeypatch):
    cfg = tiny.config(text, **{"optimizer.offload": "disk"})
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(ValueError, match="optimizer.offload='disk' must run in one process, and not in 2"):
        setup.prepare(cfg, tmp_path)


LAYERS = {"pattern": ({"sublayers": (tiny.ATTENTION, tiny.MLP)},), "repeats": 2}
RUN = {"model.layers": LAYERS, "eval_every_steps": 0, "eval_batches": 1, "checkpoint_every_steps": 0}


@pytest.mark.slow
@pytest.mark.parametrize(("first", "then"), [("host", "none"), ("none", "disk"), ("disk", "disk")])
def test_a_run_that_goes_on_with_its_means_elsewhere_is_the_whole_one(quick, text, tmp_path, first, then):
    """On four devices; files are written anew from the checkpoint."""
    mesh = {"mesh.data": 2, "mesh.fsdp": 2}
    cfg = {how: tiny.config(text, **RUN, **mesh, **{"optimizer.offload": how}) for how in ("none", *ELSEWHERE)}
    devices = jax.devices()[:4]
    tiny.train(cfg["none"], tmp_path / "whole", devices)
    with tiny.at_line("step 5/10", lambda: signal.raise_signal(signal.SIGTERM)):
        tiny.train(cfg[first], tmp_path / "run", devices)
    assert tiny.steps_in(tmp_path / "run") == [6]
    for file in (tmp_path / "run" / "optimizer").rglob("*mu*/*"):
        if file.is_file():
            file.write_bytes(b"\xff" * file.stat().st_size)  # nobody reads what a process left
    tiny.train(cfg[then], tmp_path / "run", devices)
    np.testing.assert_allclose(tiny.losses(tmp_path / "run"), tiny.losses(tmp_path / "whole"), rtol=1e-6)
