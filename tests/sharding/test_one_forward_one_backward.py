"""1F1B: who works on what at which tick and what is kept; its value and gradient are those of the whole."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arch.sharding import mesh as meshes
from arch.sharding import one_forward_one_backward as schedule
from arch.sharding import pipeline

SCHEDULES = [(2, 2), (3, 3), (3, 12), (5, 5)]
"""(stages, micro-batches)."""


def turns(size, parts):
    """{(micro-batch, stage): tick} forward, and backward."""
    ticks, stages = np.mgrid[: parts + 2 * (size - 1), :size]
    forward = schedule.forward_turn(ticks, stages)
    backward = schedule.backward_turn(ticks, stages, size)
    busy = lambda m: (m >= 0) & (m < parts)
    return tuple(
        {(m, s): k for m, s, k in zip(found[busy(found)], stages[busy(found)], ticks[busy(found)])}
        for found in (forward, backward)
    )


@pytest.mark.parametrize(("size", "parts"), SCHEDULES)
def test_a_micro_batch_goes_forward_stage_by_stage_and_from_the_last_one_back(size, parts):
    forward, backward = turns(size, parts)
    assert len(forward) == len(backward) == size * parts
    for m in range(parts):
        assert all(forward[m, s] == forward[m, s - 1] + 1 for s in range(1, size))
        assert all(backward[m, s] == backward[m, s + 1] + 1 for s in range(size - 1))
        assert backward[m, size - 1] == forward[m, size - 1]


@pytest.mark.parametrize(("size", "parts"), SCHEDULES)
def test_ticks_without_a_backward_or_a_forward_turn_make_the_bubble_that_of_gpipe(size, parts):
    forward, backward = (set(found.values()) for found in turns(size, parts))
    assert len(forward) == len(backward) == pipeline.Config(micro_batches=parts).ticks(size) == parts + size - 1
    assert forward & backward == set(range(size - 1, size - 1 + parts))


@pytest.mark.parametrize(("size", "parts"), SCHEDULES)
def test_no_stage_has_more_under_way_than_there_is_room_however_many_there_are(size, parts):
    forward, backward = turns(size, parts)
    for s in range(size):
        spans = [range(forward[m, s], backward[m, s] + 1) for m in range(parts)]
        together = [[m for m in range(parts) if k in spans[m]] for k in range(parts + 2 * size)]
        assert max(map(len, together)) == min(parts, 2 * (size - 1 - s) + 1) <= schedule.room(size)
        assert all(len({m % schedule.room(size) for m in some}) == len(some) for some in together)


def test_a_loss_and_its_gradients_are_those_of_the_whole_and_nothing_comes_of_stages_that_idle():
    """Of layers that are infinite on rows that have skipped the layers before them: column 0 counts these."""
    cfg = pipeline.Config()
    rng = np.random.default_rng(0)
    layers, table, scale, factor = (jnp.asarray(rng.uniform(1, 2, n)) for n in ((2, 3), (2, 5, 3), 3, 2))

    def enter(rest, m):
        x = rest["table"][m]
        return jnp.concatenate([jnp.zeros((5, 1)), x], axis=1), m

    def layer(number, weight, factor, shared, x):
        skipped = 1 - jnp.sign(jnp.abs(x[:, :1] - number))
        return jnp.concatenate([x[:, :1] + 1, jnp.sin(x[:, 1:] * weight * shared) * factor / skipped], axis=1)

    def through(layers, fixed, shared, stage, passed, busy):
        x, m = passed
        return layer(stage, pipeline.Stacked(layers, jnp.int32(0), busy).take(), fixed[0], shared, x), m

    def leave(rest, m, passed):
        x, number = passed
        value = jnp.sum(x[:, 1:] * rest["scale"] * (1 + number))
        return value, {"number": number, "value": value}

    def whole(layers, rest):
        value, log = 0.0, 0
        for m in range(2):
            x, _ = enter(rest, m)
            for i in range(2):
                x = layer(i, layers[i], factor[i], rest["scale"], x)
            value, log = value + leave(rest, m, (x, m))[0], log + m
        return value, {"number": log, "value": value}

    rest = {"table": table, "scale": scale}
    with jax.set_mesh(meshes.make(meshes.Config(data=1, stage=2), jax.devices()[:2])):
        alike = lambda rest: rest["scale"]
        run = lambda *given: schedule.value_and_grad(enter, through, leave, *given, alike=alike, cfg=cfg)
        found = jax.jit(run)(layers, factor, rest)
    expected = jax.jit(jax.value_and_grad(whole, argnums=(0, 1), has_aux=True))(layers, rest)
    jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, rtol=1e-5), found, expected)


def test_gradients_of_layers_are_summed_in_place(optimized):
    """Nothing beside the sums, which are results, is as large as a stage's gradient."""
    shape = (8, 64, 64)

    def through(layers, fixed, shared, stage, x, busy):
        layer = jax.checkpoint(lambda stacked, x: jnp.tanh(x @ stacked.take()), prevent_cse=False)
        step = lambda x, place: (layer(pipeline.Stacked(layers, place, busy), x), None)
        return jax.lax.scan(step, x, jnp.arange(4))[0]

    def run(layers):
        enter, leave = lambda rest, m: jnp.ones((3, 64)), lambda rest, m, x: (jnp.sum(x), {})
        return schedule.value_and_grad(enter, through, leave, layers, {}, {}, alike=dict, cfg=pipeline.Config())

    mesh = meshes.make(meshes.Config(data=1, stage=2), jax.devices()[:2])
    where = meshes.sharding(("layers", None, None), shape, mesh)
    with jax.set_mesh(mesh):
        compiled = jax.jit(run).lower(jax.ShapeDtypeStruct(shape, jnp.float32, sharding=where)).compile()
    sizes = compiled.memory_analysis()
    assert sizes.temp_size_in_bytes < 4 * 64 * 64 * 4 <= sizes.output_size_in_bytes


def test_more_rounds_are_refused():
    with pytest.raises(ValueError, match="rounds=2 must be 1 with schedule='1f1b'"):
        pipeline.Config(rounds=2, schedule="1f1b")
