"""Weights as int8 are within half a scale of themselves; products with them are those with what they stand for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as draws

from arch.kernels.grouped_matmul.choice import grouped_matmul
from arch.ops import grouped_matmul as reference
from arch.ops.int8 import Int8, dequantized, quantize_experts, quantized

M, D, F, E = 29, 5, 3, 4
SIZES = jnp.array([11, 0, 3, 12])


def inputs(dtype=jnp.float32):
    draw = np.random.default_rng(0).normal
    return jnp.asarray(draw(size=(M, D)), dtype), jnp.asarray(draw(size=(E, D, F)), jnp.float32)


@settings(max_examples=50, deadline=None)
@given(draws.arrays(np.float32, (2, 3, 2), elements=st.floats(-1e4, 1e4, width=32)))
def test_an_entry_is_off_by_at_most_half_the_scale_of_its_expert_and_channel(weight):
    weight = np.where(np.abs(weight) < 1e-30, 0, weight)  # where XLA has zeros for what is not normal
    found = quantized(jnp.asarray(weight))
    scale = np.abs(weight).max(axis=1, keepdims=True) / 127
    error = np.abs(np.asarray(found.dequantized(jnp.float32)) - weight)
    assert np.all(error <= scale * (0.5 + 1e-4))
    assert found.values.dtype == jnp.int8


def test_a_channel_of_zeros_stays_zeros():
    assert not np.any(quantized(jnp.zeros((1, D, F))).dequantized(jnp.float32))


def test_the_largest_weight_of_a_channel_is_kept():
    weight = inputs()[1]
    largest = lambda array: np.abs(np.asarray(array)).max(axis=1)
    np.testing.assert_allclose(largest(quantized(weight).dequantized(jnp.float32)), largest(weight), rtol=1e-6)


@pytest.mark.parametrize("implementation", ["", "blocks", "ragged_dot"])
def test_the_product_is_that_of_the_rounded_weights(implementation):
    x, weight = inputs()
    found = grouped_matmul(x, quantized(weight), SIZES, device_kind="cpu", implementation=implementation)
    expected = reference.grouped_matmul(x, dequantized(quantized(weight), x.dtype), SIZES)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_products_of_float16_do_not_overflow():
    x = jnp.full((M, 256), 8, jnp.float16)  # 8 * 127 * 256 is beyond the largest float16
    found = reference.grouped_matmul(x, quantized(jnp.full((E, 256, F), 0.01)), SIZES)
    np.testing.assert_allclose(found[0], 8 * 0.01 * 256, rtol=2e-3)


def test_no_more_than_one_expert_is_ever_dequantised():
    m, d, f, e = 64, 128, 256, 32
    weight = jax.eval_shape(quantized, jax.ShapeDtypeStruct((e, d, f), jnp.float32))
    arrays = jax.ShapeDtypeStruct((m, d), jnp.float32), weight, jax.ShapeDtypeStruct((e,), jnp.int32)
    product = lambda *args: reference.grouped_matmul(*args, block=8)
    memory = jax.jit(product).lower(*arrays).compile().memory_analysis()
    assert memory.argument_size_in_bytes < 1.1 * e * d * f
    assert memory.temp_size_in_bytes < 4 * 4 * d * f


def test_only_experts_are_quantised_in_a_tree():
    vector, matrix, experts = (jnp.ones(shape) for shape in ((D,), (D, F), (E, D, F)))
    dense = {"mlp": {"gate": matrix, "up": matrix}, "attention": {"query": experts}}
    found = quantize_experts({"layers": {"0": dense | {"moe": {"router": matrix, "down": experts}}}, "norm": vector})
    layer = found["layers"]["0"]
    assert isinstance(layer["moe"].pop("down"), Int8)
    assert not any(isinstance(leaf, Int8) for leaf in jax.tree.leaves(found, is_leaf=lambda x: isinstance(x, Int8)))
