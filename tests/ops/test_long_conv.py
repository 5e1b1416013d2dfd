"""The convolution by transforms is the sum as written, and looks at no later token."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arch.ops.long_conv import long_conv, long_conv_at, transform_size


def inputs(dtype=jnp.float64, length=13, seed=0):
    rng = np.random.default_rng(seed)
    normal = lambda *shape: jnp.asarray(rng.standard_normal(shape), dtype)
    return normal(2, length, 3), normal(length, 3)


def sums(x, taps):
    out = np.zeros(x.shape)
    for t in range(x.shape[1]):
        out[:, t] = sum(np.asarray(taps[t - s] * x[:, s]) for s in range(t + 1))
    return out


@pytest.mark.parametrize("implementation", ["fft", "direct"])
def test_values_are_those_of_the_sum(implementation):
    with jax.enable_x64():
        x, taps = inputs()
        actual = jax.jit(lambda x, taps: long_conv(x, taps, implementation=implementation))(x, taps)
        np.testing.assert_allclose(actual, sums(x, taps), rtol=0, atol=1e-12)


@settings(max_examples=5, deadline=None)
@given(st.integers(1, 33), st.integers(0, 9))
def test_the_transforms_equal_the_sum_at_any_length(length, seed):
    @jax.jit
    def difference(x, taps):
        return jnp.max(jnp.abs(long_conv(x, taps) - long_conv(x, taps, implementation="direct")))

    with jax.enable_x64():
        assert difference(*inputs(length=length, seed=seed)) < 1e-10


def test_gradients_are_those_of_the_sum():
    def run(x, taps, implementation):
        return jnp.sum(jnp.sin(long_conv(x, taps, implementation=implementation)))

    with jax.enable_x64():
        gradients = jax.jit(jax.grad(run, argnums=(0, 1)), static_argnums=2)
        for ours, exact in zip(gradients(*inputs(), "fft"), gradients(*inputs(), "direct")):
            assert jnp.all(exact != 0)
            np.testing.assert_allclose(ours, exact, rtol=0, atol=1e-12)


@pytest.mark.parametrize("places", [[[4], [12]], [[3, 4], [11, 12]]])
def test_outputs_at_some_places_are_those_of_the_whole_row(places):
    with jax.enable_x64():
        x, taps = inputs()
        whole, rows = sums(x, taps), np.arange(2)[:, None]
        np.testing.assert_allclose(long_conv_at(x, taps, jnp.asarray(places)), whole[rows, places], rtol=0, atol=1e-12)


@pytest.mark.parametrize("length, size", [(1, 1), (2, 4), (3, 8), (4, 8), (5, 16), (64, 128)])
def test_transforms_have_room_for_both(length, size):
    assert transform_size(length) == size >= 2 * length - 1


def test_bfloat16_inputs_are_summed_in_float32():
    x, taps = (array.astype(jnp.bfloat16) for array in inputs(jnp.float32))
    wide = long_conv(x.astype(jnp.float32), taps.astype(jnp.float32))
    np.testing.assert_array_equal(long_conv(x, taps), wide.astype(jnp.bfloat16))
