"""ALiBi's slopes are the paper's, and its bias falls linearly with distance."""

import jax.numpy as jnp
import numpy as np
import pytest

from arch.ops.alibi import bias, slopes

PLACES = jnp.arange(4)[None]
SLOPES = jnp.asarray(slopes(2), jnp.float32)


@pytest.mark.parametrize(("heads", "expected"), [
    (1, [-8]),
    (2, [-4, -8]),
    (3, [-4, -8, -2]),
    (8, [-1, -2, -3, -4, -5, -6, -7, -8]),
    (12, [-1, -2, -3, -4, -5, -6, -7, -8, -0.5, -1.5, -2.5, -3.5]),
])  # fmt: skip
def test_slopes_are_the_powers_of_two_of_the_released_code(heads, expected):
    np.testing.assert_allclose(np.log2(slopes(heads)), expected, rtol=1e-14)


def test_the_bias_is_minus_the_slope_times_the_distance():
    distance = np.array([[0, 1, 2, 3], [1, 0, 1, 2], [2, 1, 0, 1], [3, 2, 1, 0]])
    expected = np.stack([-distance / 16, -distance / 256])[None]
    np.testing.assert_array_equal(bias(SLOPES, PLACES, PLACES), expected)


def test_the_bias_depends_on_the_distance_only():
    np.testing.assert_array_equal(bias(SLOPES, PLACES + 7, PLACES + 7), bias(SLOPES, PLACES, PLACES))
