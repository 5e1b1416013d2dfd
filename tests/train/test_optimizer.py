"""AdamW decays by path and clips by the global norm, and the learning rate warms up and follows a cosine."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from arch import tree
from arch.layers.weight import unbox
from arch.train import optimizer as optimizers
from tests.train import tiny

STEADY = dict(learning_rate=0.5, warmup_steps=0, final_share=1.0)


def updated(cfg, params, gradients):
    """What one step adds to the parameters."""
    optimizer = cfg.make(10)
    return optimizer.update(gradients, optimizer.init(params), params)[0]


MAMBA = ("in", "gate", "conv", "dt_down", "dt_up", "B", "C", "out")
MOE = ("router", "gate", "up", "down")
ATTENTION = ("query", "key", "value", "out")


@pytest.mark.parametrize("path", ["position/table", "layers/0/attention/relative", "layers/0/attention/sinks"])
def test_positions_and_sinks_do_not_decay(path):
    mask = optimizers.Config().decayed(tree.from_paths({path: 0, "layers/0/attention/query": 0}))
    assert tree.paths(mask) == {path: False, "layers/0/attention/query": True}


def test_matrices_decay_but_not_the_embedding_norms_biases_and_the_recurrence():
    cfg = tiny.config("text", "hybrid", **{"model.tie_embeddings": False}).model
    shapes = jax.eval_shape(cfg.make().init, jax.random.key(0), jnp.zeros((1, 2), jnp.int32))
    mask = tree.paths(optimizers.Config().decayed(unbox(shapes["params"])))
    assert {path for path, decays in mask.items() if decays} == {"embedding/output"} | {
        f"layers/scan_0_2/{path}"
        for path in (
            *(f"0/mamba/{name}" for name in MAMBA),
            *(f"0/moe/{name}" for name in MOE),
            *(f"1/attention/{name}" for name in ATTENTION),
        )
    }


def test_decay_removes_the_learning_rate_s_share_of_the_weight():
    params = {"up": jnp.full((3, 2), 4.0), "norm": jnp.full(3, 4.0)}
    update = updated(optimizers.Config(weight_decay=0.1, **STEADY), params, jax.tree.map(jnp.zeros_like, params))
    np.testing.assert_allclose(update["up"], -0.5 * 0.1 * 4.0)
    np.testing.assert_array_equal(update["norm"], 0.0)


def test_the_first_step_without_decay_has_the_size_of_the_learning_rate():
    params = {"up": jnp.ones((3, 2))}
    cfg = optimizers.Config(weight_decay=0.0, clip_norm=0.0, **STEADY)
    update = updated(cfg, params, {"up": jnp.full((3, 2), -7.0)})
    np.testing.assert_allclose(update["up"], 0.5, rtol=1e-6)


@pytest.mark.parametrize(("clip", "seen"), [(0.0, 5.0), (10.0, 5.0), (1.0, 1.0)])
def test_gradients_are_clipped_to_the_global_norm(clip, seen):
    optimizer = optimizers.Config(clip_norm=clip, b1=0.75).make(10)
    params = {"a": jnp.zeros(1), "b": jnp.zeros(1)}
    _, state = optimizer.update({"a": jnp.array([3.0]), "b": jnp.array([4.0])}, optimizer.init(params), params)
    mean = optax.tree.get(state, "mu")
    assert np.hypot(mean["a"][0], mean["b"][0]) == pytest.approx(0.25 * seen, rel=1e-5)


@pytest.mark.parametrize(("step", "rate"), [(0, 0.0), (2, 0.4), (5, 1.0), (15, 0.6), (25, 0.2), (99, 0.2)])
def test_the_learning_rate_warms_up_and_follows_a_cosine(step, rate):
    schedule = optimizers.Config(learning_rate=1.0, warmup_steps=5, final_share=0.2).schedule(25)
    assert float(schedule(step)) == pytest.approx(rate, abs=1e-6)


def test_without_warm_up_the_first_step_has_the_peak():
    assert float(optimizers.Config(learning_rate=1.0, warmup_steps=0).schedule(25)(0)) == 1.0


def test_a_warm_up_longer_than_the_run_is_cut_off_by_its_end():
    schedule = optimizers.Config(learning_rate=1.0, warmup_steps=50).schedule(25)
    assert float(schedule(25)) == pytest.approx(0.5)
