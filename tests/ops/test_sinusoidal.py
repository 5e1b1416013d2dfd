"""Sines and cosines as the equation has them."""

import math

import jax.numpy as jnp
import numpy as np
import pytest

from arch.ops.sinusoidal import embed

POSITIONS = jnp.asarray([[0, 1, 5], [2, 0, 700]])


@pytest.mark.parametrize("dim", [6, 7])
def test_it_is_the_equation(dim):
    expected = np.zeros((2, 3, dim))
    for b, t, channel in np.ndindex(2, 3, dim):
        i = channel // 2
        angle = int(POSITIONS[b, t]) / 10000 ** (2 * i / dim)
        expected[b, t, channel] = math.sin(angle) if channel % 2 == 0 else math.cos(angle)
    np.testing.assert_allclose(embed(POSITIONS, dim, theta=10000.0), expected, atol=5e-5)


@pytest.mark.parametrize("dim", [6, 7])
def test_halves_have_all_sines_first(dim):
    pairs, halves = (embed(POSITIONS, dim, theta=100.0, pairing=pairing) for pairing in ("interleaved", "halves"))
    np.testing.assert_array_equal(halves, jnp.concatenate([pairs[..., 0::2], pairs[..., 1::2]], axis=-1))


def test_the_product_of_two_depends_on_the_distance_only():
    near, far = (embed(start + jnp.arange(5)[None], 8, theta=50.0)[0] for start in (0, 31))
    np.testing.assert_allclose(near @ near.T, far @ far.T, atol=2e-5)
