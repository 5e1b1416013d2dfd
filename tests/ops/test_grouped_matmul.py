"""The grouped product is the dense product over all experts with all but each row's own masked out."""

import inspect
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

from arch.ops.grouped_matmul import grouped_matmul

ROWS, INPUTS, OUTPUTS, EXPERTS = 29, 5, 3, 4
GROUPS = {
    "uneven, one empty, rows to spare": [11, 0, 3, 12],
    "all rows": [7, 7, 8, 7],
    "one expert": [0, 0, 29, 0],
    "one row": [0, 1, 0, 0],
    "none": [0, 0, 0, 0],
    "whole blocks": [4, 8, 4, 12],
}
each_groups = pytest.mark.parametrize("group_sizes", GROUPS.values(), ids=GROUPS)
each_implementation = pytest.mark.parametrize("implementation", ["blocks", "ragged_dot"])


def inputs(dtype=jnp.float32):
    keys = jax.random.split(jax.random.key(0), 2)
    return jax.random.normal(keys[0], (ROWS, INPUTS), dtype), jax.random.normal(
        keys[1], (EXPERTS, INPUTS, OUTPUTS), dtype
    )


def dense(x, weight, group_sizes):
    experts = np.repeat(np.arange(EXPERTS), group_sizes)
    one_hot = jax.nn.one_hot(np.pad(experts, (0, ROWS - len(experts)), constant_values=-1), EXPERTS, dtype=x.dtype)
    return jnp.einsum("md,edf,me->mf", x, weight, one_hot, precision="highest")


def gradients(function, x, weight):
    @jax.jit
    def run(x, weight):
        y, vjp = jax.vjp(function, x, weight)
        return vjp(jnp.sin(jnp.arange(y.size)).reshape(y.shape).astype(y.dtype))

    return run(x, weight)


@each_groups
@each_implementation
def test_values_are_those_of_the_masked_dense_product(implementation, group_sizes):
    x, weight = inputs()
    y = grouped_matmul(x, weight, jnp.array(group_sizes), block=4, implementation=implementation)
    np.testing.assert_allclose(y, dense(x, weight, group_sizes), atol=1e-5)
    assert not np.any(y[sum(group_sizes) :])


@each_groups
def test_gradients_are_those_of_the_masked_dense_product_in_float64(group_sizes):
    with jax.enable_x64():
        x, weight = inputs(jnp.float64)
        product = partial(grouped_matmul, group_sizes=jnp.array(group_sizes, jnp.int32), block=4)
        ours = gradients(product, x, weight)
        expected = gradients(partial(dense, group_sizes=group_sizes), x, weight)
        for name, mine, other in zip(["x", "weight"], ours, expected):
            np.testing.assert_allclose(mine, other, atol=1e-13, err_msg=name)


@pytest.mark.parametrize("block", [1, 7, 29, 1000])
def test_the_block_size_changes_no_value(block):
    x, weight = inputs()
    sizes = [11, 0, 3, 12]
    y = grouped_matmul(x, weight, jnp.array(sizes), block=block)
    np.testing.assert_allclose(y, dense(x, weight, sizes), atol=1e-5)


@pytest.mark.parametrize("block", [4, 5])  # the last block ends with the last group, or reaches past it
def test_rows_past_the_groups_may_hold_anything(block):
    x, weight = inputs()
    sizes = jnp.array([11, 0, 3, 12])
    poisoned = x.at[26:].set(jnp.nan)
    product = lambda x, weight: grouped_matmul(x, weight, sizes, block=block)
    np.testing.assert_array_equal(product(poisoned, weight), product(x, weight))
    jax.tree.map(
        np.testing.assert_array_equal, gradients(product, poisoned, weight), gradients(product, x, weight)
    )


@each_implementation
def test_bfloat16_products_are_summed_in_float32(implementation):
    x, weight = inputs(jnp.bfloat16)
    sizes = [11, 0, 3, 12]
    y = grouped_matmul(x, weight, jnp.array(sizes), block=4, implementation=implementation)
    exact = dense(x.astype(jnp.float32), weight.astype(jnp.float32), sizes)
    assert y.dtype == jnp.bfloat16
    np.testing.assert_allclose(y.astype(jnp.float32), exact, rtol=2.0**-8, atol=1e-5)  # one rounding, of y


def test_gradients_have_the_dtypes_of_their_arrays():
    x, weight = inputs()
    product = lambda x, weight: grouped_matmul(x, weight, jnp.array([11, 0, 3, 12]), block=4)
    dx, d_weight = gradients(product, x.astype(jnp.bfloat16), weight)
    assert dx.dtype == jnp.bfloat16 and d_weight.dtype == jnp.float32


def test_group_sizes_are_data_and_compile_once():
    x, weight = inputs()
    traces = []

    @jax.jit
    def product(x, weight, sizes):
        traces.append(sizes)
        return grouped_matmul(x, weight, sizes, block=4)

    for sizes in ([11, 0, 3, 12], [7, 7, 8, 7]):
        np.testing.assert_allclose(product(x, weight, jnp.array(sizes)), dense(x, weight, sizes), atol=1e-5)
    assert len(traces) == 1


def test_each_shard_of_a_mesh_multiplies_its_own_experts():
    mesh = jax.make_mesh((2,), ("expert",), axis_types=(AxisType.Auto,))
    x, weight = inputs()
    x, weight = jnp.concatenate([x, -x]), jnp.concatenate([weight, weight + 1])
    sizes = GROUPS["uneven, one empty, rows to spare"], GROUPS["all rows"]
    product = jax.checkpoint(lambda *args: grouped_matmul(*args, block=4))
    split = PartitionSpec("expert")
    mapped = jax.jit(jax.shard_map(product, mesh=mesh, in_specs=(split,) * 3, out_specs=split, check_vma=False))

    def alone(x, weight):
        return jnp.concatenate([dense(*parts) for parts in zip(jnp.split(x, 2), jnp.split(weight, 2), sizes)])

    ours = gradients(lambda x, weight: mapped(x, weight, jnp.array(sizes).ravel()), x, weight)
    for name, mine, other in zip(["x", "weight"], ours, gradients(alone, x, weight)):
        np.testing.assert_allclose(mine, other, atol=1e-5, err_msg=name)


@pytest.mark.usefixtures("optimized")
def test_temporaries_hold_no_copy_of_all_experts():
    m, d, f, e = 64, 32, 64, 64
    shapes = [((m, d), jnp.float32), ((e, d, f), jnp.float32), ((e,), jnp.int32)]
    objective = lambda *args: jnp.sum(grouped_matmul(*args, block=8))
    arrays = [jax.ShapeDtypeStruct(*shape) for shape in shapes]
    compiled = jax.jit(jax.grad(objective, argnums=(0, 1))).lower(*arrays).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 4 * e * d * f


@pytest.mark.parametrize(
    ("setting", "message"),
    [(dict(block=-1), "block=-1 must be"), (dict(implementation="dense"), "implementation='dense' must be")],
)
def test_an_unknown_setting_raises(setting, message):
    unchecked = inspect.unwrap(grouped_matmul)  # by the types, which know the implementations too
    with pytest.raises(ValueError, match=message):
        unchecked(*inputs(), jnp.zeros(EXPERTS, jnp.int32), **setting)
