"""Rotary embedding turns pairs of channels, so that products know only the distance of two tokens."""

import math

import jax.numpy as jnp
import numpy as np
import pytest

from arch.ops.rope import frequencies, llama3, ntk_theta, rotate, yarn

B, T, N, H = 2, 5, 3, 6
FREQUENCY = frequencies(H, 100.0)


def _x(seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal((B, T, N, H)), jnp.float32)


def _positions(start=0):
    return jnp.broadcast_to(start + jnp.arange(T), (B, T))


def _products(shift, frequency=FREQUENCY, **fields):
    query, key = (rotate(_x(seed), _positions(shift), frequency, **fields) for seed in (1, 2))
    return jnp.einsum("btnh,bsnh->bnts", query, key)


@pytest.mark.parametrize("pairing", ["halves", "interleaved"])
def test_products_depend_on_the_distance_only(pairing):
    np.testing.assert_allclose(_products(0, pairing=pairing), _products(17, pairing=pairing), atol=2e-5)


def test_products_with_untouched_channels_depend_on_the_distance_only():
    np.testing.assert_allclose(_products(0, FREQUENCY[:2]), _products(17, FREQUENCY[:2]), atol=2e-5)


def test_products_depend_on_the_distance():
    assert np.abs(_products(0) - jnp.einsum("btnh,bsnh->bnts", _x(1), _x(2))).max() > 0.1


def test_position_zero_turns_nothing():
    np.testing.assert_array_equal(rotate(_x(), jnp.zeros((B, T), int), FREQUENCY), _x())


def test_lengths_are_multiplied_by_the_magnitude():
    turned = rotate(_x(), _positions(3), FREQUENCY, magnitude=1.5)
    np.testing.assert_allclose(jnp.linalg.norm(turned, axis=-1), 1.5 * jnp.linalg.norm(_x(), axis=-1), rtol=1e-6)


def test_a_magnitude_leaves_channels_that_do_not_turn_alone():
    turned = rotate(_x(), _positions(3), FREQUENCY[:2], magnitude=1.5)
    np.testing.assert_array_equal(turned[..., 4:], _x()[..., 4:])


@pytest.mark.parametrize(("pairing", "first", "second"), [("halves", 1, 4), ("interleaved", 2, 3)])
def test_a_pair_turns_by_the_angle_of_the_equation(pairing, first, second):
    x = jnp.zeros((1, 1, 1, H)).at[..., first].set(1.0)  # pair i=1 of h=6: angle = position * theta^(-2/6)
    angle, expected = 7 * 100.0 ** (-2 / 6), np.zeros(H)
    expected[first], expected[second] = np.cos(angle), np.sin(angle)
    turned = rotate(x, jnp.asarray([[7]]), FREQUENCY, pairing=pairing)
    np.testing.assert_allclose(turned[0, 0, 0], expected, atol=1e-6)


def test_the_pairings_are_permutations_of_each_other():
    order = np.array([0, 2, 4, 1, 3, 5])
    turned = rotate(_x(), _positions(3), FREQUENCY, pairing="interleaved")
    halves = rotate(_x()[..., order], _positions(3), FREQUENCY, pairing="halves")
    np.testing.assert_allclose(turned[..., order], halves, atol=1e-6)


@pytest.mark.parametrize("pairing", ["halves", "interleaved"])
def test_the_last_channels_stay_when_fewer_pairs_turn(pairing):
    turned = rotate(_x(), _positions(3), FREQUENCY[:2], pairing=pairing)
    np.testing.assert_array_equal(turned[..., 4:], _x()[..., 4:])
    assert np.all(np.abs(turned - _x())[..., :4].max(axis=(0, 1, 2)) > 0.01)


def test_the_result_has_the_input_s_type():
    assert rotate(_x().astype(jnp.bfloat16), _positions(), FREQUENCY).dtype == jnp.bfloat16


def test_frequencies_fall_from_one_by_a_constant_ratio():
    np.testing.assert_allclose(frequencies(8, 81.0), [1, 1 / 3, 1 / 9, 1 / 27])


def test_ntk_divides_the_slowest_frequency_by_the_factor_and_keeps_the_fastest():
    plain, ntk = frequencies(10, 50.0), frequencies(10, ntk_theta(50.0, 10, factor=4.0))
    np.testing.assert_allclose(ntk[[0, -1]], [plain[0], plain[-1] / 4], rtol=1e-12)


LLAMA2 = dict(theta=1e4, factor=16.0, original_length=4096, beta_fast=32.0, beta_slow=1.0)


def _yarn(channels, theta, factor, original_length, beta_fast, beta_slow):
    """Pair by pair: h(theta_d) = (1 - gamma) theta_d / s + gamma theta_d, gamma linear in d between whole pairs."""

    def pair_that_turns(times):  # solves times * wavelength = L, wavelength = 2 pi b^(2d/D), for d
        return channels / 2 * math.log(original_length / times / math.tau, theta)

    first, last = math.floor(pair_that_turns(beta_fast)), math.ceil(pair_that_turns(beta_slow))
    out = []
    for d in range(channels // 2):
        gamma = 1.0 if d <= first else 0.0 if d >= last else (last - d) / (last - first)
        out.append(((1 - gamma) / factor + gamma) * theta ** (-2 * d / channels))
    return out


@pytest.mark.parametrize("fields", [LLAMA2, dict(LLAMA2, theta=500.0, original_length=256, beta_fast=7.0)])
def test_yarn_is_the_paper_s(fields):
    ours = yarn(frequencies(128, fields["theta"]), truncate=True, **fields)
    np.testing.assert_allclose(ours, _yarn(128, **fields), rtol=1e-12)


@pytest.mark.parametrize("truncate", [True, False])
def test_yarn_keeps_pairs_that_turn_often_and_interpolates_those_that_turn_little(truncate):
    plain = frequencies(128, 1e4)
    ours, turns = yarn(plain, truncate=truncate, **LLAMA2), 4096 * plain / math.tau
    np.testing.assert_allclose(ours[turns > 33], plain[turns > 33], rtol=1e-12)
    np.testing.assert_allclose(ours[turns < 0.86], plain[turns < 0.86] / 16, rtol=1e-12)
    assert np.any(turns > 33) and np.any(turns < 0.86)


def test_yarn_s_ramp_for_llama_2_goes_from_pair_20_to_pair_46():
    plain = frequencies(128, 1e4)
    ratio = yarn(plain, truncate=True, **LLAMA2) / plain
    assert list(np.flatnonzero(ratio == 1)) == list(range(21))
    assert list(np.flatnonzero(ratio > 1 / 16 + 1e-9)) == list(range(46)) and ratio[33] == pytest.approx(17 / 32)


LLAMA3 = dict(factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_length=8192)


def _llama3(plain, factor, low_freq_factor, high_freq_factor, original_length):
    """Frequency by frequency, in wavelengths, as Llama 3.1's release has it."""
    out = []
    for frequency in plain:
        wavelength = 2 * math.pi / frequency
        if wavelength < original_length / high_freq_factor:
            out.append(frequency)
        elif wavelength > original_length / low_freq_factor:
            out.append(frequency / factor)
        else:
            smooth = (original_length / wavelength - low_freq_factor) / (high_freq_factor - low_freq_factor)
            out.append((1 - smooth) * frequency / factor + smooth * frequency)
    return out


@pytest.mark.parametrize("fields", [LLAMA3, dict(LLAMA3, factor=32.0), dict(LLAMA3, original_length=64)])
def test_llama3_is_its_release_s(fields):
    plain = frequencies(128, 5e5)
    np.testing.assert_allclose(llama3(plain, **fields), _llama3(plain, **fields), rtol=1e-12)
    ratio = llama3(plain, **fields) / plain
    assert ratio[0] == 1 and ratio[-1] == 1 / fields["factor"] and np.any((1 / fields["factor"] < ratio) & (ratio < 1))
