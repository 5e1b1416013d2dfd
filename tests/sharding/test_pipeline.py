"""A pipeline computes what a scan does, each stage works when its turn is, and what does not divide is refused."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arch.sharding import mesh as meshes
from arch.sharding import pipeline

MESH = meshes.abstract(meshes.Config(data=1, stage=2, fsdp=2), 4)
SCHEDULES = [(1, 0), (1, 6), (2, 3), (3, 6), (5, 3)]
"""(rounds, micro-batches), of three stages."""


@pytest.mark.parametrize(("rounds", "parts"), SCHEDULES)
def test_each_stage_takes_each_micro_batch_when_the_stage_before_it_is_done(rounds, parts):
    cfg = pipeline.Config(rounds=rounds, micro_batches=parts)
    ticks, stages = np.mgrid[: cfg.ticks(3), :3]
    busy, turns, numbers = map(np.asarray, pipeline.turn(ticks, stages, 3, cfg))
    when = {(m, r, s): k for k, s, r, m in zip(ticks[busy], stages[busy], turns[busy], numbers[busy])}
    assert len(when) == busy.sum() == 3 * rounds * cfg.parts(3)
    for (m, r, s), k in when.items():
        before = (m, r, s - 1) if s else (m, r - 1, 2)
        assert (s, r) == (0, 0) or when[before] == k - 1
    assert cfg.bubble(3) == pytest.approx(1 - busy.mean())


@functools.cache
def alone(repeats=12):
    """Weights, rows, what a scan makes of them, and its gradients."""
    rng = np.random.default_rng(0)
    weights, x = rng.standard_normal((repeats, 3)), rng.standard_normal((24, 3))
    scale = rng.standard_normal(24)
    arrays = tuple(jnp.asarray(array, jnp.float32) for array in (weights, x, scale))

    def scanned(weights, x, scale):
        def step(x, given):
            number, weight = given
            return _layer(weight, number, x, scale[:, None]), jnp.mean(x * weight)

        return jax.lax.scan(step, x, (jnp.arange(repeats), weights))

    return arrays, jax.jit(_with_gradients(scanned))(*arrays)


def _layer(weight, number, x, scale):
    return jnp.tanh(x * weight + scale / (1 + number))


def _with_gradients(function):
    def loss(*arrays):
        y, sums = function(*arrays)
        return jnp.sum(y * jnp.arange(y.size).reshape(y.shape)) + sums @ jnp.arange(12.0), (y, sums)

    return jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True)


@pytest.mark.parametrize(
    ("sizes", "rounds", "parts"),
    [
        (dict(data=2, stage=2, fsdp=2), 1, 6),
        (dict(stage=2), 3, 2),
        pytest.param(dict(stage=4), 3, 4, marks=pytest.mark.slow),
        pytest.param(dict(stage=3, fsdp=2), 4, 0, marks=pytest.mark.slow),
        pytest.param(dict(stage=2, expert=2), 6, 6, marks=pytest.mark.slow),
        pytest.param(dict(stage=6), 2, 6, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_a_pipeline_is_a_scan(sizes, rounds, parts):
    arrays, expected = alone()
    cfg = pipeline.Config(rounds=rounds, micro_batches=parts)

    def layer(stacked, number, micro_batch, x, scale, alike):
        weight = stacked.take()
        return _layer(weight, number, x, alike * scale[:, None]), jnp.mean(x * weight)

    def piped(weights, x, scale):
        split = functools.partial(pipeline.micro_batches, cfg=cfg)
        y, sums = pipeline.run(layer, weights, split(x), split(scale), jnp.ones(()), cfg=cfg)
        return pipeline.together(y), sums

    mesh = meshes.make(meshes.Config(**dict(data=1) | sizes), jax.devices()[: np.prod(list(sizes.values()))])
    with jax.set_mesh(mesh):
        pipeline.must_divide(cfg, 12, 24, mesh)
        assert pipeline.stages() == sizes["stage"]
        axes = ("layers", None), ("batch", None), ("batch",)
        where = [meshes.sharding(names, array.shape, mesh) for names, array in zip(axes, arrays)]
        given = jax.device_put(arrays, tuple(where))
        found = jax.jit(_with_gradients(piped))(*given)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=2e-5, atol=1e-4), found, expected)


def test_what_an_idle_stage_finds_reaches_no_gradient():
    """Of layers that are infinite on rows that have skipped the layers before them: column 0 counts these."""

    def layer(number, weight, x):
        return jnp.concatenate([x[:, :1] + 1, x[:, 1:] * weight / (1 - jnp.sign(jnp.abs(x[:, :1] - number)))], axis=1)

    def piped(weights, x):
        run = lambda stacked, number, _, x, *rest: (layer(number, stacked.take(), x), {})
        y, _ = pipeline.run(run, weights, pipeline.micro_batches(x, cfg), {}, {}, cfg=cfg)
        return jnp.sum(pipeline.together(y))

    cfg, x = pipeline.Config(), jnp.concatenate([jnp.zeros((4, 1)), jnp.ones((4, 2))], axis=1)
    with jax.set_mesh(meshes.make(meshes.Config(data=1, stage=2), jax.devices()[:2])):
        gradients = jax.jit(jax.grad(piped, argnums=(0, 1)))(jnp.array([2.0, 3.0]), x)
    np.testing.assert_array_equal(gradients[0], [24, 16])  # of 8 sixes, by 2 and by 3
    np.testing.assert_array_equal(gradients[1], [[1, 6, 6]] * 4)


@pytest.mark.parametrize(
    ("repeats", "rows", "changes", "rule"),
    [
        (3, 8, {}, "repeats=3 must be a multiple of mesh.stage=2 times pipeline.rounds=1: what does not divide can"),
        (6, 8, dict(rounds=2), "repeats=6 must be a multiple of mesh.stage=2 times pipeline.rounds=2"),
        (4, 8, dict(micro_batches=3), "pipeline.micro_batches=3 must be a multiple of mesh.stage=2"),
        (4, 12, dict(micro_batches=4), "12 rows of a batch must be a multiple of 8: pipeline.micro_batches=4 times 2"),
    ],
)
def test_what_does_not_divide_is_refused(repeats, rows, changes, rule):
    with pytest.raises(ValueError, match=re.escape(rule)):
        pipeline.must_divide(pipeline.Config(**changes), repeats, rows, MESH)


def test_without_stages_nothing_is_asked():
    mesh = meshes.abstract(meshes.Config(data=8), 8)
    pipeline.must_divide(pipeline.Config(rounds=5, micro_batches=7), 3, 8, mesh)
    assert pipeline.stages(mesh) == pipeline.stages() == 1
