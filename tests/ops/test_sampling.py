"""Sampling draws from exactly the filtered distribution."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from arch.ops.sampling import filter_logits, sample

PROBS = np.array([0.07, 0.4, 0.03, 0.2, 0.3])
LOGITS = jnp.log(jnp.asarray(PROBS, jnp.float32))[None] + 1.7  # a shift must not matter


def kept_probs(**settings):
    return np.asarray(jax.nn.softmax(filter_logits(LOGITS, **settings), axis=-1)[0])


def renormalised(ids):
    probs = np.zeros_like(PROBS)
    probs[ids] = PROBS[ids]
    return probs / probs.sum()


def test_off_settings_leave_the_softmax():
    np.testing.assert_allclose(kept_probs(), PROBS, rtol=1e-6)


def test_temperature_raises_probabilities_to_its_inverse():
    np.testing.assert_allclose(kept_probs(temperature=0.5), PROBS**2 / np.sum(PROBS**2), rtol=1e-6)


@pytest.mark.parametrize(("top_k", "ids"), [(1, [1]), (2, [1, 4]), (3, [1, 3, 4]), (5, range(5)), (11, range(5))])
def test_top_k_keeps_the_k_likeliest(top_k, ids):
    np.testing.assert_allclose(kept_probs(top_k=top_k), renormalised(list(ids)), rtol=1e-6)


@pytest.mark.parametrize(
    ("top_p", "ids"), [(1e-9, [1]), (0.39, [1]), (0.41, [1, 4]), (0.69, [1, 4]), (0.71, [1, 3, 4]), (0.999, range(5))]
)
def test_top_p_keeps_the_smallest_set_that_reaches_p(top_p, ids):
    np.testing.assert_allclose(kept_probs(top_p=top_p), renormalised(list(ids)), rtol=1e-6)


def test_top_p_counts_mass_after_temperature():
    # squared and renormalised: 0.546, 0.307, 0.137, ... so two tokens reach 0.8 where untempered it takes three
    np.testing.assert_array_equal(np.flatnonzero(kept_probs(temperature=0.5, top_p=0.8)), [1, 4])


def test_top_p_counts_mass_after_top_k():
    # among {0.4, 0.3} the first holds 0.571
    np.testing.assert_array_equal(np.flatnonzero(kept_probs(top_k=2, top_p=0.57)), [1])


def test_top_p_among_equal_logits_keeps_the_lower_ids():
    filtered = filter_logits(jnp.zeros((1, 5)), top_p=0.5)
    np.testing.assert_array_equal(jnp.isfinite(filtered[0]), [True, True, True, False, False])


def test_filtered_bfloat16_logits_are_float32():
    assert filter_logits(LOGITS.astype(jnp.bfloat16), top_p=0.9).dtype == jnp.float32


def test_rows_are_filtered_independently():
    rows = jax.random.normal(jax.random.key(0), (3, 7))
    alone = jnp.concatenate([filter_logits(row[None], top_k=5, top_p=0.7) for row in rows])
    np.testing.assert_array_equal(filter_logits(rows, top_k=5, top_p=0.7), alone)


def test_temperature_zero_is_the_argmax():
    rows = jax.random.normal(jax.random.key(1), (3, 7))
    ids = sample(rows, jax.random.key(2), temperature=0, top_k=2, top_p=0.5)
    assert ids.dtype == jnp.int32
    np.testing.assert_array_equal(ids, jnp.argmax(rows, axis=-1))


def test_draws_follow_the_filtered_distribution():
    draws = 4000
    settings = dict(temperature=0.8, top_k=4, top_p=0.95)
    ids = sample(jnp.tile(LOGITS, (draws, 1)), jax.random.key(3), **settings)
    counts, probs = np.bincount(np.asarray(ids), minlength=5), kept_probs(**settings).astype(np.float64)
    assert ids.dtype == jnp.int32
    assert counts[probs == 0].sum() == 0
    kept = probs > 0
    assert stats.chisquare(counts[kept], draws * probs[kept] / probs[kept].sum()).pvalue > 0.01


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(temperature=-0.1), "temperature=-0.1 must be"),
        (dict(temperature=float("nan")), "temperature=nan must be"),
        (dict(temperature=float("inf")), "temperature=inf must be"),
        (dict(top_k=-1), "top_k=-1 must be"),
        (dict(top_p=0.0), "top_p=0.0 must be"),
        (dict(top_p=1.1), "top_p=1.1 must be"),
    ],
)
@pytest.mark.parametrize("function", [filter_logits, partial(sample, key=jax.random.key(0))])
def test_a_setting_out_of_range_raises(function, settings, message):
    with pytest.raises(ValueError, match=message):
        function(LOGITS, **settings)


def test_filtering_at_temperature_zero_raises():
    with pytest.raises(ValueError, match="temperature=0 is greedy"):
        filter_logits(LOGITS, temperature=0)
