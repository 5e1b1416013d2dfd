"""What counts as a bad batch; and a step that meets one leaves the state as it is."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from arch import config, tree
from arch.models import decoder
from arch.sharding import mesh as meshes
from arch.train import bad_batch
from arch.train import state as states
from arch.train.bad_batch import JUDGE, LEAVE_OUT, SKIP, TAKE, WINDOW
from arch.train.step import train_step

CFG = bad_batch.Config(on_spike="skip", spike_sigmas=3.0, spike_after=5)


@jax.jit
def enter(watch, loss, norm):
    return bad_batch.after(watch, loss, norm, what=JUDGE, taken=jnp.bool(True), entered=jnp.bool(True))


def entered(losses, norms, start=bad_batch.init()):
    """The record behind steps with these losses and norms."""
    for loss, norm in zip(losses, norms, strict=True):
        start = enter(start, np.float32(loss), np.float32(norm))
    return start


def named(loss, norm, limits):
    return bad_batch.REASONS[int(bad_batch.reason(jnp.float32(loss), jnp.float32(norm), jnp.asarray(limits)))]


@pytest.mark.parametrize("count", [5, 6, WINDOW, WINDOW + 37])
def test_the_limits_are_median_plus_sigmas_of_the_last_window(count):
    values = np.random.default_rng(count).gamma(2.0, size=(2, count)).astype(np.float32)
    last = values[:, -WINDOW:]
    middle = np.median(last, axis=1)
    deviation = np.median(np.abs(last - middle[:, None]), axis=1)
    limits = bad_batch.limits(entered(*values), CFG)
    np.testing.assert_allclose(limits, middle + 3 * 1.4826 * deviation, rtol=1e-6)


def test_values_that_do_not_move_have_a_limit_above_them():
    np.testing.assert_allclose(bad_batch.limits(entered([2.0] * 5, [7.0] * 5), CFG), [2.006, 7.021], rtol=1e-6)


def test_there_is_no_spike_before_enough_steps_nor_where_none_is_looked_for():
    steps = entered(range(5), range(5))
    assert np.isfinite(bad_batch.limits(steps, CFG)).all()
    assert np.isinf(bad_batch.limits(entered(range(4), range(4)), CFG)).all()
    assert np.isinf(bad_batch.limits(steps, CFG.replace(on_spike="off"))).all()


def test_a_value_that_is_not_finite_does_not_enter():
    steps = entered([1.0, np.nan, 2.0, 3.0], [1.0, 1.0, np.inf, 3.0])
    assert steps.count == 2 and steps.values[:, :3].tolist() == [[1, 3, 0], [1, 3, 0]]


def test_one_spike_hardly_moves_the_limit_and_half_a_window_of_them_becomes_the_rule():
    calm = np.random.default_rng(1).normal(2.0, 0.1, WINDOW)
    before = entered(calm, calm)
    once, often = entered([50.0], [50.0], before), entered([50.0] * 70, [50.0] * 70, before)
    assert float(bad_batch.limits(once, CFG)[0]) == pytest.approx(float(bad_batch.limits(before, CFG)[0]), rel=0.01)
    assert bad_batch.limits(often, CFG)[0] > 50


@pytest.mark.parametrize(
    ("loss", "norm", "expected"),
    [
        (1.0, 1.0, ("", "")),
        (np.nan, np.nan, ("loss", "nonfinite")),
        (1.0, np.inf, ("gradient_norm", "nonfinite")),
        (2.5, 9.0, ("loss", "spike")),
        (1.0, 9.0, ("gradient_norm", "spike")),
        (2.0, 3.0, ("", "")),
    ],
)
def test_the_reason_names_the_first_quantity_that_is_wrong(loss, norm, expected):
    assert named(loss, norm, [2.0, 3.0]) == expected


def test_a_config_refuses_more_steps_than_the_window_holds():
    with pytest.raises(ValueError, match="spike_after=129 must be at least 2 and at most 128"):
        bad_batch.Config(spike_after=129)


MOE = dict(name="moe", num_experts=3, top_k=2, hidden_dim=5, bias_rate=0.125)
MODEL = dict(vocab_size=13, embed_dim=6, layers=dict(pattern=(dict(sublayers=(MOE,)),), repeats=2))


@pytest.fixture(scope="module")
def world(quick):
    """(state, compiled step, batch) of a model with buffers, an average and Adam's moments, after some good steps."""
    cfg = config.from_dict(decoder.Config, MODEL)
    model, optimizer = cfg.make(), optax.adam(0.1)
    mesh = meshes.make(meshes.Config(), jax.devices()[:1])
    plan = states.plan(model, optimizer, mesh, states.Beside(average=True))
    state = states.init(model, optimizer, plan, jax.random.key(1))
    how = dict(micro_batches=2, ema_decay=0.5, bad=CFG)
    step = jax.jit(train_step(model, cfg, optimizer, plan.trainable, np.ones(13), **how))
    tokens = np.random.default_rng(0).integers(13, size=(2, 4, 7)).astype(np.int32)
    places = np.broadcast_to(np.arange(7, dtype=np.int32), (4, 7))
    batch = dict(tokens=tokens[0], targets=tokens[1], segment_ids=np.ones_like(places), positions=places)
    batch |= {"weights": np.ones((4, 7), np.float32)}
    for i in range(2):
        state, _ = step(state, batch, jax.random.key(0), bad_batch.order(i, JUDGE))
    return state, step, batch


def changed(world, batch, what, *, at=2, state=None):
    """The paths of the leaves that a step changes, and its metrics."""
    before, step, _ = world
    before = state or before
    after, metrics = step(before, batch, jax.random.key(0), bad_batch.order(at, what))
    differs = jax.tree.map(lambda old, new: not np.array_equal(old, new), before, after)
    leaves = jax.tree_util.tree_leaves_with_path(differs)
    return {jax.tree_util.keystr(path, simple=True, separator="/") for path, differs in leaves if differs}, metrics


def without_numbers(batch):
    return batch | {"weights": batch["weights"] * np.where(np.arange(4) == 2, np.nan, 1.0)[:, None].astype(np.float32)}


def test_a_good_batch_changes_everything_that_it_should(world):
    paths, _ = changed(world, world[2], JUDGE)
    assert {path.split("/")[0] for path in paths} == {"step", "params", "opt_state", "average", "watch"}
    assert "params/layers/scan_0_1/0/moe/router_bias" in paths


def test_a_batch_that_is_not_finite_changes_nothing(world):
    paths, metrics = changed(world, without_numbers(world[2]), JUDGE)
    assert not paths and bad_batch.REASONS[int(metrics["verdict"]["reason"])] == ("loss", "nonfinite")


def test_a_batch_that_is_not_the_states_next_changes_nothing(world):
    for what in (JUDGE, TAKE, SKIP, LEAVE_OUT):
        assert not changed(world, world[2], what, at=3)[0]


def test_skipping_a_bad_batch_changes_the_step_and_the_counts_alone(world):
    paths, metrics = changed(world, without_numbers(world[2]), SKIP)
    assert paths == {"step", "watch/skipped", "watch/in_a_row"} and metrics["skipped_steps"] == 1


def test_leaving_a_good_batch_out_changes_the_step_and_the_record_alone(world):
    paths, _ = changed(world, world[2], LEAVE_OUT)
    assert paths == {"step", "watch/skipped", "watch/values", "watch/count"}


@pytest.fixture(scope="module")
def calm(world):
    """The state behind steps of which the next is a spike."""
    return dataclasses.replace(world[0], watch=entered([0.1] * 5, [100.0] * 5))


def test_a_spike_changes_nothing_until_it_is_taken(world, calm):
    paths, metrics = changed(world, world[2], JUDGE, state=calm)
    assert not paths and bad_batch.REASONS[int(metrics["verdict"]["reason"])] == ("loss", "spike")
    taken, _ = changed(world, world[2], TAKE, state=calm)
    assert taken == changed(world, world[2], JUDGE)[0]


@pytest.fixture(scope="module")
def wild(world):
    """The state before an update which takes parameters out of float32, while loss and gradient are finite."""
    adam, *others = world[0].opt_state
    moments = jax.tree.map(lambda leaf: jnp.full_like(leaf, 1e30), adam.mu)
    return dataclasses.replace(world[0], opt_state=(adam._replace(mu=moments), *others))


@pytest.mark.parametrize("what", [JUDGE, TAKE])
def test_an_update_that_leaves_no_numbers_is_the_reason(world, wild, what):
    watch = entered([0.1] * 5, [100.0] * 5) if what == TAKE else wild.watch
    _, metrics = changed(world, world[2], what, state=dataclasses.replace(wild, watch=watch))
    assert np.isfinite(metrics["gradient_norm"]) and not np.isfinite(metrics["parameter_norm"])
    assert bad_batch.REASONS[int(metrics["verdict"]["reason"])] == ("parameter_norm", "nonfinite")


def test_parameters_that_are_no_numbers_are_not_the_fault_of_a_batch_that_is_not_taken():
    for found, (quantity, _) in enumerate(bad_batch.REASONS[:5]):
        assert int(bad_batch.reason_behind(jnp.int32(found), jnp.float32(np.nan), jnp.bool(False))) == found


def test_a_batch_that_is_taken_ends_the_row_of_skipped_ones(world):
    skipped = dataclasses.replace(world[0], watch=dataclasses.replace(world[0].watch, in_a_row=jnp.int32(3)))
    state, _ = world[1](skipped, world[2], jax.random.key(0), bad_batch.order(2, JUDGE))
    assert state.watch.in_a_row == 0
    state, _ = world[1](skipped, without_numbers(world[2]), jax.random.key(0), bad_batch.order(2, SKIP))
    assert state.watch.in_a_row == 4


def test_without_an_order_the_step_judges_any_batch(world):
    state, step, batch = world
    given, _ = step(state, batch, jax.random.key(0), bad_batch.order(2, JUDGE))
    free, _ = step(state, batch, jax.random.key(0))
    for path, leaf in tree.paths(given.params).items():
        np.testing.assert_allclose(tree.paths(free.params)[path], leaf, rtol=1e-6, err_msg=path)  # another program
