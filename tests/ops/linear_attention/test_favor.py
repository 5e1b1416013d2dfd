"""Random features approximate the softmax without bias, orthogonal ones better, and causally whatever comes later."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arch.ops.linear_attention import favor

HEAD_DIM = 8
QUERY, KEY = (0.3 * np.random.default_rng(seed).standard_normal((2, HEAD_DIM)).astype(np.float32) for seed in (0, 1))


@functools.cache
def estimates(kernel, num_features, orthogonal, draws=4000):
    """[draws 2] of exp(q . k), one for each pair of QUERY and KEY, from independent draws of vectors."""

    def estimate(key):
        vectors = favor.draw(key, num_features, HEAD_DIM, orthogonal=orthogonal)
        product = 1.0
        for x in (QUERY, KEY):
            log, factor = favor.features(jnp.asarray(x)[None, :, None], vectors, kernel)
            product *= jnp.exp(log) * factor
        return jnp.sum(product, axis=(0, 2, 3)) / num_features

    return np.asarray(jax.jit(jax.vmap(estimate))(jax.random.split(jax.random.key(0), draws)), np.float64)


EXACT = np.exp(np.sum(QUERY * KEY, axis=1, dtype=np.float64))


def mean_square(errors):
    return np.mean(np.square(errors), axis=0)


@pytest.mark.parametrize("orthogonal", [False, True])
@pytest.mark.parametrize("kernel", ["positive", "trigonometric"])
def test_the_mean_over_draws_is_the_exponential(kernel, orthogonal):
    found = estimates(kernel, HEAD_DIM, orthogonal)
    standard_error = found.std(axis=0) / np.sqrt(len(found))
    assert np.all(standard_error < 0.05 * EXACT)
    assert np.all(np.abs(found.mean(axis=0) - EXACT) < 4 * standard_error)


@pytest.mark.parametrize("kernel", ["positive", "trigonometric"])
def test_orthogonal_vectors_err_less_than_independent_ones(kernel):
    independent, orthogonal = (mean_square(estimates(kernel, HEAD_DIM, choice) - EXACT) for choice in (False, True))
    assert np.all(orthogonal < 0.95 * independent)


def test_the_square_error_falls_as_the_number_of_features_grows():
    few, many = (mean_square(estimates("trigonometric", m, False) - EXACT) for m in (HEAD_DIM, 4 * HEAD_DIM))
    np.testing.assert_allclose(few / many, 4.0, rtol=0.2)


def heads(length, scale=1.0, seed=0):
    return [
        jnp.asarray(scale * x, jnp.float32)
        for x in np.random.default_rng(seed).standard_normal((3, 2, length, 2, HEAD_DIM))
    ]


def softmax_attention(query, key, value, causal):
    logits = np.einsum("btnh,bsnh->bnts", query, key) / np.sqrt(HEAD_DIM)
    if causal:
        logits = np.where(np.tri(logits.shape[-1], dtype=bool), logits, -np.inf)
    weights = np.exp(logits)
    return np.einsum("bnts,bsnh->btnh", weights / weights.sum(-1, keepdims=True), value)


@pytest.mark.parametrize("kernel, causal", [("positive", True), ("trigonometric", False)])
def test_many_features_are_near_softmax_attention(kernel, causal):
    arrays = heads(11, scale=0.5)
    vectors = favor.draw(jax.random.key(3), 1 << 13, HEAD_DIM)
    out, _ = favor.favor_attention(*arrays, vectors, kernel=kernel, causal=causal)
    expected = softmax_attention(*map(np.asarray, arrays), causal)
    assert np.sqrt(np.mean(np.square(out - expected))) < 0.05 * np.std(expected)


@pytest.mark.parametrize(
    "kernel, causal", [("positive", True), ("positive", False), ("trigonometric", True), ("relu", True)]
)
def test_attention_is_the_mean_weighted_by_the_kernel(kernel, causal):
    """Against the equation, of all pairs and not stabilised, in float64."""
    query, key, value = heads(37, scale=0.5)
    vectors = favor.draw(jax.random.key(0), 11, HEAD_DIM)
    with jax.enable_x64():
        parts = (favor.features(HEAD_DIM**-0.25 * x.astype(float), vectors.astype(float), kernel) for x in (query, key))
        q, k = (np.asarray(jnp.exp(log) * factor) for log, factor in parts)
    floor = favor.FLOORS[kernel] if kernel == "relu" else 0.0
    weights = np.einsum("btnm,bsnm->bnts", q + floor, k + floor) * (np.tri(37) if causal else 1.0)
    expected = np.einsum("bnts,bsnh->btnh", weights / weights.sum(-1, keepdims=True), np.asarray(value, np.float64))
    out, _ = favor.favor_attention(query, key, value, vectors, kernel=kernel, causal=causal)
    np.testing.assert_allclose(out, expected, rtol=0, atol=1e-3)


def test_a_row_in_parts_that_hand_on_the_state_is_the_row():
    with jax.enable_x64():
        arrays = [x.astype(jnp.float64) for x in heads(13, scale=2.0)]
        vectors = favor.draw(jax.random.key(0), 5, HEAD_DIM).astype(jnp.float64)
        run = jax.jit(favor.favor_attention)
        whole, last = run(*arrays, vectors)
        state, parts = favor.empty_state(2, 2, 5, HEAD_DIM, "positive"), []
        for start, stop in ((0, 6), (6, 7), (7, 13)):
            out, state = run(*(x[:, start:stop] for x in arrays), vectors, state=state)
            parts.append(out)
        np.testing.assert_allclose(np.concatenate(parts, axis=1), whole, rtol=1e-10, atol=1e-10)
        for ours, expected in zip(state, last):
            np.testing.assert_allclose(ours, expected, rtol=1e-10, atol=1e-10)


def test_a_key_however_large_leaves_what_came_before():
    query, key, value = heads(13)
    vectors = favor.draw(jax.random.key(0), 7, HEAD_DIM)
    run = jax.jit(favor.favor_attention)
    out, _ = run(query, key, value, vectors)
    other, _ = run(query, key.at[:, 9].multiply(1000.0), value, vectors)
    np.testing.assert_array_equal(other[:, :9], out[:, :9])


@pytest.mark.parametrize("causal", [False, True])
def test_large_queries_and_keys_overflow_nothing(causal):
    vectors = favor.draw(jax.random.key(0), 7, HEAD_DIM)

    def objective(query, key, value):
        return jnp.sum(jnp.sin(favor.favor_attention(query, key, value, vectors, causal=causal)[0]))

    value, gradients = jax.jit(jax.value_and_grad(objective, argnums=(0, 1, 2)))(*heads(13, scale=60.0))
    assert np.isfinite(value) and all(np.isfinite(gradient).all() for gradient in gradients)


@pytest.mark.parametrize("num_features", [5, HEAD_DIM, 19])
def test_vectors_of_a_block_are_orthogonal(num_features):
    vectors = np.asarray(favor.draw(jax.random.key(1), num_features, HEAD_DIM))
    assert vectors.shape == (num_features, HEAD_DIM)
    for start in range(0, num_features, HEAD_DIM):
        block = vectors[start : start + HEAD_DIM]
        products = block @ block.T
        np.testing.assert_allclose(products, np.diag(np.diag(products)), atol=1e-5)


def test_norms_are_those_of_normal_vectors_or_constant():
    square = lambda **choices: np.square(favor.draw(jax.random.key(2), 4000, HEAD_DIM, **choices)).sum(axis=1)
    chi = square()
    np.testing.assert_allclose([chi.mean(), chi.var()], [HEAD_DIM, 2 * HEAD_DIM], rtol=0.1)
    np.testing.assert_allclose(square(norms="constant"), HEAD_DIM, rtol=1e-5)


def test_vectors_are_redrawn_when_their_time_has_come_and_then_only():
    current, key = favor.draw(jax.random.key(0), 5, HEAD_DIM), jax.random.key(4)
    at = jax.jit(lambda step: favor.redrawn(key, step, 3, current))
    changed = [not np.array_equal(at(step), current) for step in range(8)]
    assert changed == [False, False, False, True, False, False, True, False]
    np.testing.assert_array_equal(at(6), favor.draw(jax.random.fold_in(key, 6), 5, HEAD_DIM))
    np.testing.assert_array_equal(favor.redrawn(key, 3, 0, current), current)
