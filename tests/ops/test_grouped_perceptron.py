"""The perceptron of a group's rows is that of its expert on each row, gated or not, whatever the groups."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arch.ops.activation import ACTIVATIONS
from arch.ops.grouped_perceptron import grouped_perceptron
from tests.ops.test_grouped_matmul import GROUPS

CHANNELS, HIDDEN = 5, 3


def inputs(rows, experts, dtype, *, gated=True):
    rng = np.random.default_rng(0)
    draw = lambda *shape: jnp.asarray(rng.standard_normal(shape), dtype)
    inner = tuple(draw(experts, CHANNELS, HIDDEN) for _ in range(1 + gated))
    return draw(rows, CHANNELS), inner, draw(experts, HIDDEN, CHANNELS)


def reference(x, inner, down, group_sizes):
    """With a copy of its expert's weights for each row."""
    expert = jnp.repeat(jnp.arange(len(down)), group_sizes, total_repeat_length=len(x))
    first, *gated = (jnp.einsum("md,mdf->mf", x, weight[expert]) for weight in inner)
    hidden = ACTIVATIONS["silu"](first)
    y = jnp.einsum("mf,mfd->md", hidden * gated[0] if gated else hidden, down[expert])
    return jnp.where(jnp.arange(len(x))[:, None] < jnp.sum(group_sizes), y, 0)


def both(function):
    """Value and gradients, compiled once for all groups."""

    @jax.jit
    def run(x, inner, down, group_sizes):
        y, pull = jax.vjp(lambda *arrays: function(*arrays, group_sizes), x, inner, down)
        return y, pull(jnp.sin(jnp.arange(y.size)).reshape(y.shape).astype(y.dtype))

    return run


def ours(block):
    return both(partial(grouped_perceptron, activation="silu", block=block))


def assert_close(found, expected, **tolerance):
    for mine, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(mine, other, **tolerance)


@pytest.mark.parametrize("gated", [True, False], ids=["gated", "plain"])
def test_values_and_gradients_are_those_of_each_rows_expert(gated):
    with jax.enable_x64():
        arrays, run, expected = inputs(29, 4, jnp.float64, gated=gated), ours(8), both(reference)
        for name, sizes in GROUPS.items():
            sizes = jnp.array(sizes, jnp.int32)
            assert_close(run(*arrays, sizes), expected(*arrays, sizes), atol=1e-12, err_msg=name)


def test_what_is_left_over_may_be_of_any_size():
    """Every size of a first block, with and without whole blocks after it."""
    arrays = inputs(353, 6, jnp.float32, gated=False)
    sizes = jnp.array([5, 13, 64 + 29, 41, 0, 2 * 64 + 61], jnp.int32)
    assert_close(ours(64)(*arrays, sizes), both(reference)(*arrays, sizes), atol=1e-4)


def test_rows_past_the_groups_may_hold_anything():
    x, inner, down = inputs(29, 4, jnp.float32)
    sizes, run = jnp.array([11, 0, 3, 12], jnp.int32), ours(8)
    assert_close(run(x.at[26:].set(jnp.nan), inner, down, sizes), run(x, inner, down, sizes), rtol=0)


@pytest.mark.usefixtures("optimized")
def test_the_hidden_layer_is_never_whole():
    """Kept is what the first product gives; beside that, temporaries are of a block's size."""
    m, d, f, e = 1024, 8, 256, 2
    arrays = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((m, d), (e, d, f), (e, f, d))]
    sizes = jax.ShapeDtypeStruct((e,), jnp.int32)
    compiled = ours(33).lower(arrays[0], (arrays[1],), arrays[2], sizes).compile()
    assert 4 * m * f < compiled.memory_analysis().temp_size_in_bytes < 2 * 4 * m * f


def test_a_negative_block_raises():
    sizes = jnp.zeros(4, jnp.int32)
    with pytest.raises(ValueError, match="block=-1 must be"):
        grouped_perceptron(*inputs(29, 4, jnp.float32), sizes, activation="silu", block=-1)
