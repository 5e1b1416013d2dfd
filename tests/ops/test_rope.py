"""Rotary embedding turns pairs of channels, so that products know only the distance of two tokens."""

import jax.numpy as jnp
import numpy as np

from arch.ops.rope import rotate

B, T, N, H = 2, 5, 3, 6


def _x(seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal((B, T, N, H)), jnp.float32)


def _positions(start=0):
    return jnp.broadcast_to(start + jnp.arange(T), (B, T))


def _products(shift, **fields):
    query, key = (rotate(_x(seed), _positions(shift), theta=100.0, **fields) for seed in (1, 2))
    return jnp.einsum("btnh,bsnh->bnts", query, key)


def test_products_depend_on_the_distance_only():
    np.testing.assert_allclose(_products(0), _products(17), atol=2e-5)


def test_products_with_untouched_channels_depend_on_the_distance_only():
    np.testing.assert_allclose(_products(0, fraction=0.5), _products(17, fraction=0.5), atol=2e-5)


def test_products_depend_on_the_distance():
    assert np.abs(_products(0) - jnp.einsum("btnh,bsnh->bnts", _x(1), _x(2))).max() > 0.1


def test_position_zero_turns_nothing():
    np.testing.assert_array_equal(rotate(_x(), jnp.zeros((B, T), int), theta=100.0), _x())


def test_lengths_are_kept():
    turned = rotate(_x(), _positions(3), theta=100.0)
    np.testing.assert_allclose(jnp.linalg.norm(turned, axis=-1), jnp.linalg.norm(_x(), axis=-1), rtol=1e-6)


def test_a_pair_turns_by_the_angle_of_the_equation():
    x = jnp.zeros((1, 1, 1, H)).at[..., 1].set(1.0)  # pair i=1 of h=6: angle = position * theta^(-2/6)
    angle = 7 * 100.0 ** (-2 / 6)
    expected = [0, np.cos(angle), 0, 0, np.sin(angle), 0]
    np.testing.assert_allclose(rotate(x, jnp.asarray([[7]]), theta=100.0)[0, 0, 0], expected, atol=1e-6)


def test_a_fraction_leaves_the_last_channels_alone():
    turned = rotate(_x(), _positions(3), theta=100.0, fraction=0.7)  # int(6 * 0.7) = 4 channels turn
    np.testing.assert_array_equal(turned[..., 4:], _x()[..., 4:])
    assert np.all(np.abs(turned - _x())[..., :4].max(axis=(0, 1, 2)) > 0.01)


def test_the_result_has_the_input_s_type():
    assert rotate(_x().astype(jnp.bfloat16), _positions(), theta=100.0).dtype == jnp.bfloat16
