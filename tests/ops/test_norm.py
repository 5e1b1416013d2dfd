"""Norms against their equations, and what they do not see."""

import jax.numpy as jnp
import numpy as np
import pytest

from arch.ops.norm import layer_norm, rms_norm

D = 13
X = jnp.asarray(np.random.default_rng(0).standard_normal((2, 3, D)).astype(np.float32) * 5 + 2)
SCALE, BIAS = jnp.asarray(np.random.default_rng(1).standard_normal((2, D)).astype(np.float32))


def test_layer_norm_is_its_equation():
    x = np.asarray(X, float)
    expected = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 0.1) * SCALE + BIAS
    np.testing.assert_allclose(layer_norm(X, SCALE, BIAS, epsilon=0.1), expected, atol=5e-6)


def test_layer_norm_without_bias_is_its_equation():
    np.testing.assert_array_equal(layer_norm(X, SCALE, None, epsilon=0.1), layer_norm(X, SCALE, 0 * BIAS, epsilon=0.1))


def test_rms_norm_is_its_equation():
    x = np.asarray(X, float)
    expected = x / np.sqrt(np.square(x).mean(-1, keepdims=True) + 0.1) * SCALE
    np.testing.assert_allclose(rms_norm(X, SCALE, epsilon=0.1), expected, atol=5e-6)


def test_layer_norm_does_not_see_a_shift_of_all_channels():
    shifted, plain = (layer_norm(x, SCALE, BIAS, epsilon=1e-6) for x in (X + 3, X))
    np.testing.assert_allclose(shifted, plain, atol=5e-6)


@pytest.mark.parametrize("factor", [8.0, 0.125])
def test_rms_norm_does_not_see_a_factor(factor):
    scaled, plain = (rms_norm(x, SCALE, epsilon=1e-9) for x in (factor * X, X))
    np.testing.assert_allclose(scaled, plain, rtol=2e-6)


NORMS = (lambda x: rms_norm(x, SCALE, epsilon=1e-6), lambda x: layer_norm(x, SCALE, BIAS, epsilon=1e-6))


@pytest.mark.parametrize("norm", NORMS, ids=["rms", "layer"])
def test_statistics_of_bfloat16_are_taken_in_float32(norm):
    half = jnp.asarray(X, jnp.bfloat16)
    np.testing.assert_array_equal(norm(half), norm(half.astype(jnp.float32)).astype(jnp.bfloat16))


def test_zeros_stay_finite():
    assert np.isfinite(layer_norm(0 * X, SCALE, BIAS, epsilon=1e-6)).all()
    assert np.isfinite(rms_norm(0 * X, SCALE, epsilon=1e-6)).all()
