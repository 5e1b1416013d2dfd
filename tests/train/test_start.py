"""What a run begins with: a saved state, whatever it lacks or has too much beside parameters and optimizer."""

import dataclasses
import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import register_dataclass

from arch import tree
from arch.train import bad_batch, loss_scale
from arch.train import state as states
from arch.train.checkpoint import Checkpoints
from arch.train.start import StartError, start
from tests.train import tiny

HALF = {"model.dtype": "float16", "loss_scale.initial": 8.0}
AVERAGED = {"ema.decay": 0.5}


@register_dataclass
@dataclasses.dataclass(frozen=True)
class OldLossScale:
    """As it was saved when it counted skipped steps itself."""

    scale: jax.Array
    finite_steps: jax.Array
    skipped_steps: jax.Array


def saved(cfg, workdir, **changes):
    """The state that a run of this config has saved at step 3, with these fields changed."""
    setup = tiny.prepare(cfg, workdir)
    with jax.set_mesh(setup.mesh):
        state = states.init(setup.model, setup.optimizer, setup.plan, jax.random.key(5))
    if state.average:
        changes["average"] = jax.tree.map(lambda leaf: leaf + 1, state.params)
    state = dataclasses.replace(state, step=jnp.int32(3), **changes)
    extra = {"data_fingerprint": setup.data.fingerprint, "config": {"ema": {"decay": cfg.ema.decay}}, "evaluation": {}}
    with Checkpoints(workdir / "checkpoints") as checkpoints:
        checkpoints.save(3, state, extra=extra)
    return state


def begun(cfg, workdir):
    """The state that a run of this config begins with."""
    setup = tiny.prepare(cfg, workdir)
    with jax.set_mesh(setup.mesh), Checkpoints(workdir / "checkpoints") as checkpoints:
        return start(setup, checkpoints)[0]


def assert_same(tree, other):
    assert jax.tree.structure(tree) == jax.tree.structure(other)
    for leaf, twin in zip(jax.tree.leaves(tree), jax.tree.leaves(other), strict=True):
        np.testing.assert_array_equal(leaf, twin)


def test_a_checkpoint_from_before_there_was_a_watch_goes_on(text, tmp_path, caplog):
    old = saved(tiny.config(text), tmp_path, watch=())
    with caplog.at_level(logging.INFO):
        new = begun(tiny.config(text), tmp_path)
    assert_same(new, dataclasses.replace(old, watch=bad_batch.init()))
    assert "the record of losses and gradient norms begins anew" in caplog.messages


def test_a_loss_scale_from_before_there_was_a_watch_is_kept(text, tmp_path):
    scale = OldLossScale(jnp.float32(64.0), jnp.int32(5), jnp.int32(2))
    old = saved(tiny.config(text, **HALF), tmp_path, loss_scale=scale, watch=())
    new = begun(tiny.config(text, **HALF), tmp_path)
    assert_same(new.loss_scale, loss_scale.LossScale(jnp.float32(64.0), jnp.int32(5)))
    assert_same(new.params, old.params)


@pytest.mark.parametrize(("before", "after"), [(HALF, AVERAGED), (AVERAGED, HALF)], ids=["from half", "to half"])
def test_another_runs_state_goes_on_with_another_loss_scale_and_average(text, tmp_path, before, after):
    old = saved(tiny.config(text, **before), tmp_path / "old")
    new = begun(tiny.config(text, **after, resume=str(tmp_path / "old")), tmp_path / "new")
    for field in ("step", "params", "opt_state", "watch"):
        assert_same(getattr(new, field), getattr(old, field))
    assert_same(new.loss_scale, loss_scale.init(8.0) if after == HALF else ())
    assert_same(new.average, old.params if after == AVERAGED else {})


def test_an_average_that_is_given_up_is_said(text, tmp_path, caplog):
    saved(tiny.config(text, **AVERAGED), tmp_path)
    with caplog.at_level(logging.INFO):
        assert begun(tiny.config(text), tmp_path).average == {}
    assert "the moving average is given up: ema.decay is 0, and was 0.5" in caplog.messages


def test_a_new_average_has_memory_of_its_own(text, tmp_path):
    saved(tiny.config(text), tmp_path)
    new = begun(tiny.config(text, **AVERAGED), tmp_path)
    for path, leaf in tree.paths(new.average).items():
        assert leaf.unsafe_buffer_pointer() != tree.paths(new.params)[path].unsafe_buffer_pointer()


def test_other_parameters_are_refused_by_name(text, tmp_path):
    saved(tiny.config(text), tmp_path / "old")
    wide = tiny.config(text, **{"model.embed_dim": 32, "resume": str(tmp_path / "old")})
    with pytest.raises(StartError, match=r"does not fit the model: .*embedding/table is float32\[264, 24\]"):
        begun(wide, tmp_path / "new")
