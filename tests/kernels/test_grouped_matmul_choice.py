"""The grouped product's implementation is the device's, says what it needs, and is the one named where one is named."""

import importlib.metadata
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arch.kernels import compat
from arch.kernels.grouped_matmul import peers
from arch.kernels.grouped_matmul.choice import choose, grouped_matmul
from arch.ops import grouped_matmul as reference

HOPPER = "mosaic" if compat.available() else "blocks"


def inputs(dtype=jnp.float32):
    draw = np.random.default_rng(0).normal
    x, weight = (jnp.asarray(draw(size=shape), dtype) for shape in ((11, 64), (3, 64, 64)))
    return x, weight, jnp.array([4, 0, 5], jnp.int32)


@pytest.mark.parametrize(
    ("device_kind", "dtype", "channels", "expected"),
    [
        ("cpu", "bfloat16", (64, 128), "blocks"),
        ("TPU v5 lite", "float32", (7, 5), "ragged_dot"),
        ("NVIDIA H200", "bfloat16", (64, 128), HOPPER),
        ("NVIDIA GH200 480GB", "float16", (64, 128), HOPPER),
        ("NVIDIA H100 80GB HBM3", "float32", (64, 128), "blocks"),
        ("NVIDIA H200", "bfloat16", (64, 96), "blocks"),
        ("NVIDIA A100-SXM4-80GB", "bfloat16", (64, 128), "blocks"),
        ("NVIDIA B200", "bfloat16", (64, 128), "blocks"),
    ],
)
def test_the_device_the_numbers_and_the_channels_choose(device_kind, dtype, channels, expected):
    assert choose(device_kind, dtype, *channels) == expected


def test_what_is_chosen_is_what_is_computed():
    traced = jax.make_jaxpr(lambda *args: grouped_matmul(*args, device_kind="TPU v5p"))(*inputs())
    assert "ragged_dot" in str(traced)
    x, weight, sizes = inputs()
    found = grouped_matmul(x, weight, sizes, device_kind="cpu")
    np.testing.assert_array_equal(found, reference.grouped_matmul(x, weight, sizes))


@pytest.mark.skipif(not compat.available(), reason="this JAX is too old for the kernels")
def test_rows_and_weights_of_different_types_are_no_work_for_tensor_cores():
    x, weight, sizes = inputs(jnp.bfloat16)
    product = lambda *args: grouped_matmul(*args, device_kind="NVIDIA H200")
    assert "name=grouped_matmul" in str(jax.make_jaxpr(product)(x, weight, sizes))
    assert "name=_blocks" in str(jax.make_jaxpr(product)(x, weight.astype(jnp.float32), sizes))


@pytest.mark.parametrize("name", ["mosaic", "jax_linear_attention"])
def test_a_hopper_kernel_is_not_run_elsewhere(name):
    with pytest.raises(ValueError, match=f"implementation='{name}' needs a Hopper GPU .*device_kind='cpu'"):
        grouped_matmul(*inputs(jnp.bfloat16), device_kind="cpu", implementation=name)


def test_an_unknown_implementation_raises():
    with pytest.raises(ValueError, match="implementation='triton' must be '' or one of blocks, ragged_dot, mosaic"):
        inspect.unwrap(grouped_matmul)(*inputs(), device_kind="cpu", implementation="triton")


@pytest.mark.parametrize(
    ("name", "package", "device_kind"),
    [("tokamax", "tokamax", "cpu"), ("jax_linear_attention", "jax-linear-attention", "NVIDIA H200")],
)
def test_a_package_that_is_absent_is_named_with_its_version(name, package, device_kind, monkeypatch):
    def absent(package):
        raise importlib.metadata.PackageNotFoundError

    monkeypatch.setattr(importlib.metadata, "version", absent)
    with pytest.raises(ImportError, match=rf"{package}, version {peers.VERSIONS[package]} \(not installed\)"):
        grouped_matmul(*inputs(jnp.bfloat16), device_kind=device_kind, implementation=name)


def test_tokamax_gives_our_values_and_gradients():
    pytest.importorskip("tokamax", reason="compares with tokamax where it is installed")
    *arrays, sizes = inputs()
    arrays[0] = arrays[0].at[9:].set(jnp.nan)

    def both(implementation):
        product = lambda *arrays: grouped_matmul(*arrays, sizes, device_kind="cpu", implementation=implementation)
        y, pull = jax.vjp(product, *arrays)
        return y, *pull(jnp.ones_like(y))

    for found, expected in zip(both("tokamax"), both("blocks")):
        np.testing.assert_allclose(found, expected, atol=1e-4)
