"""The Hopper kernels of the grouped product, interpreted on CPU, are the product by NumPy, and free of races.

The interpreter simulates shared memory, copies, barriers and warpgroups, and reports accesses that nothing orders.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arch.kernels import compat, warpgroups
from arch.kernels.grouped_matmul import hopper
from tests.kernels.interpreter import watching

M, D, F = 149, 128, 64
GROUPS = {
    "uneven, one empty, rows to spare": [67, 0, 71],
    "one group": [0, 149, 0],
    "none": [0, 0, 0],
    "whole tiles": [128, 8, 8],
}
SKEWED = GROUPS["uneven, one empty, rows to spare"]
BF16 = 2.0**-8

pytestmark = pytest.mark.skipif(
    jax.__version_info__ < compat.INTERPRETER, reason="this JAX interprets no Mosaic GPU kernels"
)


def launch():
    return warpgroups.Launch(columns=64, slots=2, blocks=2, interpret=watching())


def inputs(group_sizes, dtype=jnp.bfloat16):
    """x, weight and dy; rows behind the groups are NaN."""
    draw = np.random.default_rng(0).normal
    spare = np.arange(M)[:, None] >= sum(group_sizes)
    x, dy = (np.where(spare, np.nan, draw(size=(M, n))) for n in (D, F))
    return tuple(jnp.asarray(array, dtype) for array in (x, draw(size=(len(group_sizes), D, F)), dy))


def expected(x, weight, dy, group_sizes):
    """y, dx and d_weight in float64, a group at a time."""
    x, weight, dy = (np.asarray(array, np.float64) for array in (x, weight, dy))
    y, dx, d_weight = np.zeros_like(dy), np.zeros_like(x), np.zeros_like(weight)
    stops = np.cumsum(group_sizes)
    for e, (start, stop) in enumerate(zip(stops - group_sizes, stops)):
        rows = slice(start, stop)
        y[rows], dx[rows], d_weight[e] = x[rows] @ weight[e], dy[rows] @ weight[e].T, x[rows].T @ dy[rows]
    return y, dx, d_weight


def near(found, exact):
    """Summed in float32, rounded once."""
    np.testing.assert_allclose(np.asarray(found, np.float64), exact, rtol=BF16, atol=1e-4)


def no_race(capfd):
    return "RACE DETECTED" not in "".join(capfd.readouterr())


def all_three(x, weight, dy, sizes):
    y, pull = jax.vjp(partial(hopper.grouped_matmul, group_sizes=sizes, launch=launch()), x, weight)
    return y, *pull(dy)[:2]


@pytest.mark.parametrize(
    "group_sizes",
    [pytest.param(sizes, id=name, marks=[pytest.mark.slow] * (sizes != SKEWED)) for name, sizes in GROUPS.items()],
)
def test_values_and_both_gradients_are_those_of_each_group_alone_without_a_race(group_sizes, capfd):
    x, weight, dy = inputs(group_sizes)
    found = all_three(x, weight, dy, jnp.array(group_sizes, jnp.int32))
    for mine, exact in zip(found, expected(x, weight, dy, group_sizes)):
        near(mine, exact)
    assert no_race(capfd)


@pytest.mark.slow
def test_float16_is_multiplied_too(capfd):
    x, weight, dy = inputs(SKEWED, jnp.float16)
    found = all_three(x, weight, dy, jnp.array(SKEWED, jnp.int32))
    for mine, exact in zip(found, expected(x, weight, dy, SKEWED)):
        assert mine.dtype == jnp.float16
        near(mine, exact)


def test_a_store_that_is_not_committed_would_be_seen_as_a_race(monkeypatch, capfd):
    _, plgpu = compat.modules()
    monkeypatch.setattr(plgpu, "commit_smem", lambda: None)
    x, weight, _ = inputs([3])
    try:
        hopper.grouped_matmul(x, weight, jnp.array([3], jnp.int32), launch()).block_until_ready()
    except jax.errors.JaxRuntimeError as error:  # of a newer JAX, which leaves its interpreter half way
        from jax._src.pallas.mosaic_gpu.interpret import gpu_callbacks

        gpu_callbacks.reset_gpu_interpret_mode_state()
        assert "RACE DETECTED" in str(error)
    else:
        assert not no_race(capfd)


@pytest.mark.parametrize(
    ("dtype", "weight_dtype", "shape", "message"),
    [
        ("float32", "float32", (D, F), "x.dtype=float32 and weight.dtype=float32 must both be bfloat16 or both"),
        ("bfloat16", "float16", (D, F), "weight.dtype=float16 must both be"),
        ("bfloat16", "bfloat16", (96, F), "d=96 of weight .* must be a multiple of 64"),
        ("bfloat16", "bfloat16", (D, 72), "f=72 of weight .* must be a multiple of 64"),
    ],
)
def test_operands_that_tensor_cores_do_not_take_are_refused(dtype, weight_dtype, shape, message):
    x, weight = jnp.zeros((M, shape[0]), dtype), jnp.zeros((2, *shape), weight_dtype)
    with pytest.raises(ValueError, match=message):
        hopper.grouped_matmul(x, weight, jnp.array([3, 4], jnp.int32))
