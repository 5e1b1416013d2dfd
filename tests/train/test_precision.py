"""Runs in half precision, and their moving average: they learn, and a resume is exact in every part of the state."""

import signal

import numpy as np
import pytest

import arch
from arch import tree
from arch.train import restore
from tests.train import tiny

LAYERS = {"pattern": ({"sublayers": (tiny.ATTENTION, tiny.MLP)},)}
HALF = {
    "model.layers": LAYERS,
    "model.dtype": "float16",
    "loss_scale.initial": 2.0**20,
    "loss_scale.growth_steps": 4,
    "ema.decay": 0.75,
    "eval_every_steps": 0,
    "checkpoint_every_steps": 5,
}


def values(workdir, name):
    return [value for _, key, value in tiny.curve(workdir) if key == name]


@pytest.fixture(scope="module")
def cfg(text):
    return tiny.config(text, **HALF)


@pytest.fixture(scope="module")
def workdir(quick, cfg, tmp_path_factory):
    """Ten steps in float16, from a scale that overflows."""
    folder = tmp_path_factory.mktemp("half")
    tiny.train(cfg, folder)
    return folder


def saved(workdir, part, step=10):
    """A part of the state that a run saved."""
    params, _ = restore.restore_step(workdir / "checkpoints" / str(step), None, part)
    return {path: np.asarray(leaf) for path, leaf in tree.paths(params).items()}


def test_float16_skips_what_overflows_and_learns_behind_it(workdir):
    skipped, scales, losses = (values(workdir, f"train/{name}") for name in ("skipped_steps", "loss_scale", "loss"))
    assert 0 < skipped[-1] < 6 and skipped == sorted(skipped)
    halved = [after == before / 2 for before, after in zip(scales, scales[1:])]
    assert scales[0] == 2**20 and halved == [now > before for before, now in zip([0, *skipped], skipped)][:-1]
    assert losses[-1] < losses[0] - 0.1


def test_a_skipped_step_changes_no_parameter(workdir):
    skipped, norms = (values(workdir, f"train/{name}") for name in ("skipped_steps", "parameter_norm"))
    assert skipped[:2] == [1, 2] and norms[0] == norms[1]
    assert [norm == 0 for norm in values(workdir, "train/gradient_norm")][:2] == [True, True]


def test_the_rate_that_is_logged_is_that_of_the_last_step_which_was_not_skipped(workdir, cfg):
    skipped, rates = (values(workdir, f"train/{name}") for name in ("skipped_steps", "learning_rate"))
    taken = [max(step - int(before) - 1, 0) for step, before in enumerate(skipped, 1)]
    schedule = cfg.optimizer.schedule(cfg.total_steps)
    assert rates == [pytest.approx(float(schedule(step))) for step in taken]
    assert rates[-1] != pytest.approx(float(schedule(cfg.total_steps - 1)))


@pytest.mark.slow
def test_the_resumed_run_is_the_whole_one_bit_for_bit_scale_and_average_included(workdir, cfg, tmp_path):
    with tiny.at_line("step 6/10", lambda: signal.raise_signal(signal.SIGTERM)):
        tiny.train(cfg, tmp_path)
    assert tiny.steps_in(tmp_path)[-1] == 7
    tiny.train(cfg, tmp_path)
    assert tiny.curve(tmp_path) == tiny.curve(workdir)
    for part in (restore.PARAMS, restore.AVERAGE, "loss_scale/", "opt_state/"):
        again, whole = saved(tmp_path, part), saved(workdir, part)
        assert whole and again.keys() == whole.keys()
        for path, leaf in whole.items():
            np.testing.assert_array_equal(again[path], leaf, err_msg=part + path)


def test_the_average_follows_the_parameters_by_its_decay(quick, cfg, tmp_path):
    """From the first step on, with a checkpoint at each."""
    keep = dict(checkpoint_every_steps=1, checkpoints=cfg.checkpoints.replace(keep_latest=9))
    tiny.train(cfg.replace(total_steps=4, loss_scale=cfg.loss_scale.replace(initial=1.0), **keep), tmp_path)
    average = saved(tmp_path, restore.AVERAGE, 1)
    for step in (2, 3, 4):
        params = saved(tmp_path, restore.PARAMS, step)
        average = {path: 0.75 * average[path] + 0.25 * params[path] for path in params}
        for path, leaf in saved(tmp_path, restore.AVERAGE, step).items():
            np.testing.assert_allclose(leaf, average[path], rtol=1e-5, atol=1e-7, err_msg=path)
            average[path] = leaf
    assert any(np.any(average[path] != leaf) for path, leaf in params.items())


def test_a_loaded_model_is_the_average_if_the_config_uses_it(workdir):
    _, params = arch.load(workdir)
    expected = tree.paths(tree.unstack(tree.from_paths(saved(workdir, restore.AVERAGE))))
    for path, leaf in tree.paths(params).items():
        np.testing.assert_array_equal(leaf, expected[path], err_msg=path)


def test_an_evaluation_takes_the_average_if_the_config_uses_it(workdir, cfg, tmp_path):
    """The same run, evaluated at its parameters."""
    plain = cfg.replace(ema=cfg.ema.replace(use=False))
    tiny.train(plain, tmp_path)
    assert values(tmp_path, "train/loss") == values(workdir, "train/loss")
    assert values(tmp_path, "eval/valid/loss") != values(workdir, "eval/valid/loss")
    loaded, raw = tree.paths(arch.load(tmp_path)[1]), saved(tmp_path, restore.PARAMS)
    np.testing.assert_array_equal(loaded["embedding/table"], raw["embedding/table"])


def test_bfloat16_learns_without_a_loss_scale(text, quick, tmp_path):
    cfg = tiny.config(text, **HALF | {"model.dtype": "bfloat16", "ema.decay": 0.0})
    tiny.train(cfg, tmp_path)
    losses = values(tmp_path, "train/loss")
    assert losses[-1] < losses[0] - 0.1 and values(tmp_path, "train/loss_scale") == []


def test_float32_and_bfloat16_have_no_loss_scale(text):
    scales = {dtype: tiny.config(text, **{"model.dtype": dtype}).first_loss_scale for dtype in ("float32", "bfloat16")}
    assert scales == {"float32": 0.0, "bfloat16": 0.0}


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("float32", "float16"),
        pytest.param("float16", "float32", marks=pytest.mark.slow),
        pytest.param("bfloat16", "float16", marks=pytest.mark.slow),
    ],
)
def test_a_run_goes_on_in_another_dtype_and_with_an_average(quick, text, tmp_path, before, after):
    def cfg(dtype, steps, decay):
        changes = {"model.dtype": dtype, "ema.decay": decay, "total_steps": steps, "checkpoint_every_steps": 0}
        return tiny.config(text, **HALF | {"model.layers": tiny.LAYERS["mlp"], "loss_scale.initial": 8.0} | changes)

    tiny.train(cfg(before, 1, 0.0), tmp_path)
    tiny.train(cfg(after, 2, 0.75), tmp_path)
    assert len(values(tmp_path, "train/loss")) == 2
    scales = {"float16": [8.0], "float32": [], "bfloat16": []}
    assert values(tmp_path, "train/loss_scale") == scales[before] + scales[after]
    old, new = (saved(tmp_path, restore.PARAMS, step)["embedding/table"] for step in (1, 2))
    average = saved(tmp_path, restore.AVERAGE, 2)["embedding/table"]
    np.testing.assert_allclose(average, 0.75 * old + 0.25 * new, rtol=1e-5, atol=1e-7)
