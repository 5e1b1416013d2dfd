"""The GPU kernels lower on a machine without a GPU, and compile for an H200 where NVIDIA's compiler is installed."""

import functools

import jax
import jax.numpy as jnp
import pytest

from arch.kernels import compat
from arch.kernels.grouped_matmul import hopper
from benchmarks import gpu_kernels

needs_mosaic = pytest.mark.skipif(jax.__version_info__ < compat.MINIMUM, reason="this JAX is too old for the kernels")


def lowered(m, d, f, e):
    arrays = [jax.ShapeDtypeStruct(shape, jnp.bfloat16) for shape in ((m, d), (e, d, f), (m, f))]

    def both(x, weight, dy, sizes):
        y, pull = jax.vjp(functools.partial(hopper.grouped_matmul, group_sizes=sizes), x, weight)
        return y, pull(dy)

    traced = jax.jit(both).trace(*arrays, jax.ShapeDtypeStruct((e,), jnp.int32))
    return traced.lower(lowering_platforms=("cuda",)).as_text()


@needs_mosaic
def test_the_product_and_both_gradients_lower_to_one_kernel_each():
    assert lowered(56, 64, 128, 3).count("custom_call @mosaic_gpu") == 3


@pytest.mark.skipif(jax.__version_info__ >= compat.MINIMUM, reason="this JAX has the kernels")
def test_an_old_jax_is_named():
    with pytest.raises(NotImplementedError, match="need JAX 0.11.0 or newer; this is JAX"):
        lowered(56, 64, 128, 3)


@pytest.mark.slow
@pytest.mark.parametrize("shape", gpu_kernels.SHAPES)
def test_compiled_for_an_h200_no_kernel_spills_and_each_multiplies_on_tensor_cores(shape):
    if gpu_kernels.missing():
        pytest.skip(f"compiles for an H200, with none here: needs {', '.join(gpu_kernels.missing())}")
    rows = gpu_kernels.report(shape)
    assert {row["kernel"] for row in rows} == {
        "grouped_matmul",
        "grouped_matmul_transposed",
        "grouped_outer_product",
    }
    for row in rows:
        assert row["spill_store_bytes"] == row["spill_load_bytes"] == 0
        assert sum(row["wgmma"].values())
