"""Noisy top-k gating and its two losses against Shazeer's equations, token by token."""

import dataclasses
from functools import partial
from statistics import NormalDist

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st

from arch.ops.routing import noisy_top_k, scores
from tests.contracts.sublayers import jit
from tests.ops.routing.draws import assert_pairs, call, cases, held_to, make, order, softmax


def _noise(case):
    """x W_noise, of another scale for each expert."""
    return (0.5 * np.cos(case.logits) - np.arange(case.logits.shape[-1]) / 3).astype(np.float32)


def _kth_excluding(values, k, i):
    return sorted((v for j, v in enumerate(values) if j != i), reverse=True)[k - 1]


def _cv_squared(x):
    return np.var(x) / np.mean(x) ** 2 if np.any(x) else 0.0


def _shazeer(case, k, normal):
    """Weights of each token, and the two losses averaged over rows; eq. 3-11. `normal` is None for no noise."""
    e = case.logits.shape[-1]
    stddev = np.log1p(np.exp(_noise(case).astype(float)))
    weights, losses = [], {"importance": [], "load": []}
    for row, n in enumerate(case.lengths):
        importance, load, tokens = np.zeros(e), np.zeros(e), []
        for t in range(n):
            clean = case.logits[row, t].astype(float)
            noisy = clean if normal is None else clean + normal[row, t] * stddev[row, t]
            chosen = order(noisy)[:k]
            gate = dict(zip(chosen, softmax(noisy[chosen])))
            tokens.append(gate)
            for i in range(e):
                importance[i] += gate.get(i, 0)
                if normal is None:
                    load[i] += i in gate
                else:
                    load[i] += NormalDist().cdf((clean[i] - _kth_excluding(noisy, k, i)) / stddev[row, t, i])
        weights.append(tokens)
        losses["importance"].append(_cv_squared(importance))
        losses["load"].append(_cv_squared(load))
    return weights, {name: np.mean(values) for name, values in losses.items()}


def check(route, case, k, seed):
    """Weights and losses, with noise or (seed None) without."""
    key = None if seed is None else jax.random.key(seed)
    normal = None if key is None else np.asarray(jax.random.normal(key, case.logits.shape), float)
    arrays = dict(noise=_noise(case)) | ({} if key is None else dict(key=key))
    routing = call(route, case, arrays, k=k)
    weights, losses = _shazeer(case, k, normal)
    assert_pairs(routing, weights, tolerance=1e-4)
    for name, value in losses.items():
        np.testing.assert_allclose(routing.losses[name], value, rtol=2e-3, atol=2e-4, err_msg=name)


@held_to(cases(), st.sampled_from([1, 2]), st.integers(0, 9))
def test_with_noise_it_is_the_paper_s(case, k, seed):
    check(noisy_top_k.route, case, k, seed)


@held_to(cases(), st.sampled_from([1, 2]), examples=15)
def test_without_noise_the_load_is_a_count(case, k):
    check(noisy_top_k.route, case, k, None)


def _gated(gates):
    """Its routing with the weights `gates(noisy logits, logits, experts)`."""

    def route(logits, real, *, k, noise, key):
        routing = noisy_top_k.route(logits, real, k=k, noise=noise, key=key)
        noisy = logits + jax.nn.softplus(noise) * jax.random.normal(key, logits.shape)
        weights = jnp.where(routing.kept, gates(noisy, logits, routing.experts), 0)
        return dataclasses.replace(routing, weights=weights)

    return route


WRONG = {
    "a softmax before the selection": lambda noisy, clean, experts: scores.at(jax.nn.softmax(noisy), experts),
    "weights of the logits without noise": lambda noisy, clean, experts: jax.nn.softmax(scores.at(clean, experts)),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_the_check_sees(wrong):
    case = make("normal")
    check(_gated(lambda noisy, clean, experts: jax.nn.softmax(scores.at(noisy, experts))), case, 2, 0)
    with pytest.raises(AssertionError):
        check(_gated(WRONG[wrong]), case, 2, 0)


def test_the_check_sees_a_load_that_is_not_smooth():
    """Counting who was chosen, with noise, is not the paper's estimator."""
    case = make("normal")

    def counted(logits, real, *, key, **options):
        noisy = noisy_top_k.route(logits, real, key=key, **options)
        count = jnp.sum(jax.nn.one_hot(noisy.experts, 5), axis=(1, 2))
        load = jnp.mean(jnp.var(count, axis=-1) / jnp.mean(count, axis=-1) ** 2)
        return noisy.__class__(**vars(noisy) | dict(losses=noisy.losses | {"load": load}))

    with pytest.raises(AssertionError, match="load"):
        check(counted, case, 2, 0)


def test_the_smooth_load_is_how_often_another_draw_of_the_expert_s_noise_keeps_it():
    """P(x, i) by drawing: the noise of one expert anew, that of all others kept."""
    case = make("normal", (1, 1, 5))
    clean, noise = jnp.asarray(case.logits[0, 0]), jnp.asarray(_noise(case)[0, 0])
    stddev, draws = jax.nn.softplus(noise), jax.random.normal(jax.random.key(1), (4001, 5))
    noisy = clean + stddev * draws[0]
    anew = jnp.where(jnp.eye(5, dtype=bool)[:, None], clean + stddev * draws[1:], noisy)  # [expert draw expert]
    chosen = jax.lax.top_k(anew, 2)[1]
    often = np.mean(np.any(chosen == np.arange(5)[:, None, None], axis=-1), axis=1)
    smooth = jit(partial(noisy_top_k.in_top_k, k=2))
    expected = smooth(clean[None, None], noisy[None, None], stddev[None, None])[0, 0]
    np.testing.assert_allclose(often, expected, atol=0.03)


def test_both_losses_reach_the_logits_and_the_noise():
    case = make("normal")

    def loss(logits, noise, name):
        return noisy_top_k.route(logits, jnp.asarray(case.real), k=2, noise=noise, key=jax.random.key(0)).losses[name]

    gradient = jit(jax.grad(loss, argnums=(0, 1)), static_argnums=2)
    for name in ("importance", "load"):
        for part in gradient(jnp.asarray(case.logits), jnp.asarray(_noise(case)), name):
            assert np.isfinite(part).all() and np.any(part != 0), name


def test_some_expert_must_be_left_out():
    case = make("normal")
    with pytest.raises(ValueError, match="k=5 must be at least 1 and below the number of experts, 5"):
        noisy_top_k.route(jnp.asarray(case.logits), jnp.asarray(case.real), k=5, noise=jnp.asarray(_noise(case)))


def test_gradients_are_finite_where_the_noise_underflows():
    logits, real = jnp.asarray([[[2.0, 1.0, 0.0], [1.0, 1.0, 1.0]]]), jnp.ones((1, 2), bool)

    def losses(noise):
        found = noisy_top_k.route(logits, real, k=2, noise=noise, key=jax.random.key(0)).losses
        return found["load"] + found["importance"]

    assert np.isfinite(jax.grad(losses)(jnp.full(logits.shape, -200.0))).all()
