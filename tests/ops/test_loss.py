"""Cross-entropy in nats."""

import jax
import jax.numpy as jnp
import numpy as np

from arch.ops.loss import cross_entropy

LOGITS = np.random.default_rng(0).standard_normal((2, 3, 5)).astype(np.float32)
TARGETS = jnp.asarray([[0, 4, 2], [1, 1, 3]])


def test_it_is_minus_the_log_probability_of_the_target():
    probability = np.exp(LOGITS.astype(float)) / np.exp(LOGITS.astype(float)).sum(-1, keepdims=True)
    expected = -np.log(np.take_along_axis(probability, np.asarray(TARGETS)[..., None], -1))[..., 0]
    np.testing.assert_allclose(cross_entropy(jnp.asarray(LOGITS), TARGETS), expected, rtol=2e-6)


def test_equal_logits_cost_the_log_of_the_vocabulary():
    np.testing.assert_allclose(cross_entropy(jnp.full((2, 3, 5), 7.0), TARGETS), np.log(5), rtol=1e-6)


def test_large_logits_stay_finite():
    loss = cross_entropy(jnp.asarray(LOGITS) * 1e30, TARGETS)
    assert np.isfinite(loss).all()


def test_its_gradient_is_probability_minus_target():
    gradient = jax.grad(lambda logits: cross_entropy(logits, TARGETS).sum())(jnp.asarray(LOGITS))
    np.testing.assert_allclose(gradient, jax.nn.softmax(LOGITS) - jax.nn.one_hot(TARGETS, 5), atol=1e-6)


def test_half_precision_logits_are_summed_in_float32():
    assert cross_entropy(jnp.asarray(LOGITS, jnp.bfloat16), TARGETS).dtype == jnp.float32
