"""Cross-entropy in nats, and the objectives that are made of it."""

import jax
import jax.numpy as jnp
import numpy as np

from arch.ops.loss import cross_entropy, mean_cross_entropy, pretraining, span

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


HALF = jnp.log(jnp.asarray([[0.5, 0.25, 0.25], [0.25, 0.5, 0.25]]))  # costs log 2 or log 4


def test_only_what_has_a_label_counts():
    loss = mean_cross_entropy(HALF, jnp.asarray([0, -100]))
    np.testing.assert_allclose(loss, np.log(2), rtol=1e-6)


def test_the_mean_is_over_labels_not_over_places():
    logits = jnp.stack([HALF, HALF, HALF])
    loss = mean_cross_entropy(logits, jnp.asarray([[0, -1], [-1, 0], [-1, -1]]))
    np.testing.assert_allclose(loss, np.log(2 * 4) / 2, rtol=1e-6)


def test_what_has_no_label_gets_no_gradient():
    gradient = jax.grad(mean_cross_entropy)(HALF, jnp.asarray([1, -100]))
    assert np.any(gradient[0]) and not np.any(gradient[1])


def test_nothing_labelled_costs_nothing():
    assert mean_cross_entropy(HALF, jnp.asarray([-100, -100])) == 0


def test_pretraining_adds_the_masked_tokens_and_the_next_sentence():
    follows = jnp.log(jnp.asarray([[0.8, 0.2]]))
    loss = pretraining(HALF[None], jnp.asarray([[-100, 0]]), follows, jnp.asarray([1]))
    np.testing.assert_allclose(loss, np.log(4) + np.log(5), rtol=1e-6)


SPANS = jnp.log(jnp.asarray([[[0.5, 0.1], [0.25, 0.4], [0.25, 0.5]]]))  # [1 3 2]: start, end


def test_a_span_costs_the_mean_of_its_start_and_its_end():
    loss = span(SPANS, jnp.asarray([1]), jnp.asarray([2]))
    np.testing.assert_allclose(loss, (np.log(4) + np.log(2)) / 2, rtol=1e-6)


def test_an_answer_that_was_cut_off_does_not_count():
    both = jnp.concatenate([SPANS, SPANS])
    loss = span(both, jnp.asarray([1, 7]), jnp.asarray([2, 9]))
    np.testing.assert_allclose(loss, span(SPANS, jnp.asarray([1]), jnp.asarray([2])), rtol=1e-6)


def test_padding_takes_no_share_of_a_span():
    padded = jnp.pad(SPANS, ((0, 0), (0, 2), (0, 0)), constant_values=3.0)
    valid = jnp.arange(5)[None] < 3
    one, two = jnp.asarray([1]), jnp.asarray([2])
    np.testing.assert_allclose(span(padded, one, two, valid), span(SPANS, one, two), rtol=1e-6)
