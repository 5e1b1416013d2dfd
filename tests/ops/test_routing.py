"""Routing, its losses and its bias against naive NumPy and the papers' values."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arch.ops import routing

B, T, E, K = 2, 7, 5, 2
LOGITS = np.random.default_rng(0).standard_normal((B, T, E)).astype(np.float32)
P = np.exp(LOGITS.astype(float)) / np.exp(LOGITS.astype(float)).sum(-1, keepdims=True)
MASK = jnp.arange(T)[None] < jnp.asarray([7, 4])[:, None]
EVERY = jnp.ones((B, T), bool)


def _route(renormalize=True, bias=None, logits=LOGITS, k=K):
    return routing.top_k(jnp.asarray(logits), k=k, renormalize=renormalize, bias=bias)


def test_each_token_goes_to_its_most_probable_experts_best_first():
    np.testing.assert_array_equal(_route().experts, np.argsort(-P, axis=-1)[..., :K])


def test_no_token_has_an_expert_twice():
    assert all(len(set(chosen)) == K for chosen in np.asarray(_route().experts).reshape(-1, K))


def test_ties_go_to_the_lower_number():
    assert np.all(_route(logits=np.zeros((B, T, E), np.float32)).experts == jnp.arange(K))


def test_weights_are_the_probabilities_as_in_switch():
    np.testing.assert_allclose(_route(renormalize=False).weights, -np.sort(-P)[..., :K], rtol=1e-5)


def test_weights_sum_to_one_as_in_mixtral():
    weights = _route().weights
    np.testing.assert_allclose(weights.sum(-1), 1.0, rtol=1e-6)
    best = -np.sort(-P)[..., :K]
    np.testing.assert_allclose(weights, best / best.sum(-1, keepdims=True), rtol=1e-5)


def test_a_bias_changes_the_choice_and_not_the_weights():
    bias = jnp.asarray([0.0, 0.0, 0.0, 0.0, 2.0])
    routed = _route(renormalize=False, bias=bias)
    assert np.all(routed.experts[..., 0] == 4)
    np.testing.assert_allclose(routed.weights[..., 0], P[..., 4], rtol=1e-5)


def test_no_gradient_reaches_the_bias():
    gradient = jax.grad(lambda bias: _route(bias=bias).weights.sum())(jnp.full(E, 0.1))
    np.testing.assert_array_equal(gradient, 0)


def test_load_counts_the_assignments_of_real_tokens():
    experts, expected = np.asarray(_route().experts), np.zeros((B, E))
    for row, length in enumerate((7, 4)):
        for expert in experts[row, :length].ravel():
            expected[row, expert] += 1 / (length * K)
    np.testing.assert_allclose(routing.load(_route().experts, MASK, num_experts=E), expected, rtol=1e-6)


def test_the_load_of_a_row_of_padding_is_zero():
    np.testing.assert_array_equal(routing.load(_route().experts, MASK & False, num_experts=E), 0)


def test_balance_loss_is_its_equation_for_each_sequence():
    experts, losses = np.asarray(_route().experts), []
    for row, length in enumerate((7, 4)):
        share = np.bincount(experts[row, :length].ravel(), minlength=E) / (length * K)
        losses.append(E * np.sum(share * P[row, :length].mean(0)))
    np.testing.assert_allclose(routing.balance_loss(_route(), MASK), np.mean(losses), rtol=1e-5)


def _uniform():
    """Each expert has the same load and the same mean probability: token t prefers expert t."""
    return _route(logits=np.broadcast_to(3 * np.eye(E, dtype=np.float32), (B, E, E)), k=1)


def test_uniform_routing_has_balance_loss_one():
    np.testing.assert_allclose(routing.balance_loss(_uniform(), jnp.ones((B, E), bool)), 1.0, rtol=1e-6)


def test_routing_all_to_one_expert_costs_more_than_one():
    logits = np.broadcast_to(3 * np.eye(E, dtype=np.float32)[:1], (B, T, E))
    assert routing.balance_loss(_route(logits=logits, k=1), EVERY) > 2


def test_z_loss_is_the_squared_log_partition():
    z = np.square(np.log(np.exp(LOGITS.astype(float)).sum(-1)))
    expected = np.mean([z[0].mean(), z[1, :4].mean()])
    np.testing.assert_allclose(routing.z_loss(jnp.asarray(LOGITS), MASK), expected, rtol=1e-5)


def test_z_loss_of_zero_logits_is_the_squared_log_of_the_experts():
    np.testing.assert_allclose(routing.z_loss(jnp.zeros((B, T, E)), EVERY), np.log(E) ** 2, rtol=1e-6)


@pytest.mark.parametrize("loss", ["balance", "z"])
def test_losses_of_a_batch_are_means_over_its_rows(loss):
    value = {
        "balance": lambda rows: routing.balance_loss(_route(logits=LOGITS[rows]), MASK[rows]),
        "z": lambda rows: routing.z_loss(jnp.asarray(LOGITS[rows]), MASK[rows]),
    }[loss]
    both = value(slice(0, 2))
    np.testing.assert_allclose(both, (value(slice(0, 1)) + value(slice(1, 2))) / 2, rtol=1e-6)


def test_the_balancing_bias_rises_under_the_mean_load_and_falls_above():
    bias = routing.balanced_bias(jnp.full(4, 0.5), jnp.asarray([0.1, 0.25, 0.25, 0.4]), rate=0.25)
    np.testing.assert_allclose(bias, [0.75, 0.5, 0.5, 0.25])
