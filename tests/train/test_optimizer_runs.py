"""Whole runs with each optimizer: they learn, and neither a resume nor a mesh changes what they learn."""

import signal

import jax
import numpy as np
import pytest

from tests.train import tiny

LAYERS = {"pattern": ({"sublayers": (tiny.ATTENTION, tiny.MLP)},)}
RATES = {"adafactor": 0.05, "lion": 0.003, "muon": 0.02, "sgd": 0.5}


def configured(text, kind):
    changes = {"model.layers": LAYERS, "optimizer.kind": kind, "optimizer.learning_rate": RATES[kind]}
    return tiny.config(text, **changes, eval_every_steps=0, eval_batches=1, checkpoint_every_steps=0)


@pytest.fixture(
    scope="module", params=[pytest.param(kind, marks=[pytest.mark.slow] * (kind in ("lion", "sgd"))) for kind in RATES]
)
def run(request, quick, text, tmp_path_factory):
    """The config and the folder of a run that nobody interrupted."""
    cfg, folder = configured(text, request.param), tmp_path_factory.mktemp(request.param)
    tiny.train(cfg, folder)
    return cfg, folder


def test_the_loss_falls(run):
    losses = tiny.losses(run[1])
    assert len(losses) == 10 and losses[-1] < losses[0] - 0.1


def test_a_resumed_run_is_the_whole_one_bit_for_bit(run, tmp_path):
    cfg, whole = run
    with tiny.at_line("step 5/10", lambda: signal.raise_signal(signal.SIGTERM)):
        tiny.train(cfg, tmp_path)
    assert tiny.steps_in(tmp_path) == [6]
    tiny.train(cfg, tmp_path)
    assert tiny.curve(tmp_path) == tiny.curve(whole)


@pytest.mark.slow
def test_means_in_bfloat16_learn_about_the_same_and_resume_bit_for_bit(quick, text, tmp_path):
    """Ten losses of AdamW; what is near is measured: 0.2 % of the loss at most."""
    changes = {"model.layers": LAYERS, "eval_every_steps": 0, "eval_batches": 1, "checkpoint_every_steps": 0}
    cfg = tiny.config(text, **changes, **{"optimizer.moments": "bfloat16"})
    tiny.train(tiny.config(text, **changes), tmp_path / "float32")
    tiny.train(cfg, tmp_path / "bfloat16")
    whole, half = (tiny.losses(tmp_path / name) for name in ("float32", "bfloat16"))
    assert half != whole
    np.testing.assert_allclose(half, whole, rtol=2e-3)
    with tiny.at_line("step 5/10", lambda: signal.raise_signal(signal.SIGTERM)):
        tiny.train(cfg, tmp_path / "stopped")
    tiny.train(cfg, tmp_path / "stopped")
    assert tiny.curve(tmp_path / "stopped") == tiny.curve(tmp_path / "bfloat16")


@pytest.mark.slow
def test_muon_on_a_mesh_learns_what_it_learns_on_one_device(quick, text, tmp_path):
    cfg, losses = configured(text, "muon"), []
    for name, shape, count in (("one", (1, 1, 1), 1), ("mesh", (2, 2, 2), 8)):
        mesh = cfg.mesh.replace(**dict(zip(("data", "fsdp", "tensor"), shape)))
        tiny.train(cfg.replace(mesh=mesh), tmp_path / name, jax.devices()[:count])
        losses.append(tiny.losses(tmp_path / name))
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-4)
