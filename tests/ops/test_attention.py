"""Attention against its equation in NumPy, written pair by pair, and masks that an eye can check."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arch.ops.attention import attend, attention_mask

B, T, S, H = 2, 5, 7, 3


def _arrays(n, k, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(shape).astype(np.float32) for shape in ((B, T, n, H), (B, S, k, H), (B, S, k, H))]


def _naive(query, key, value, mask, bias=None, scale=H**-0.5, cap=0.0):
    """One pair of tokens at a time, in float64."""
    n, k = query.shape[2], key.shape[2]
    out = np.zeros(query.shape)
    for b, t, i in np.ndindex(B, T, n):
        j = i // (n // k)
        logits = np.array([np.dot(query[b, t, i].astype(float), key[b, s, j]) * scale for s in range(S)])
        logits = cap * np.tanh(logits / cap) if cap else logits
        logits = logits + (0 if bias is None else bias[0, i, t])
        weights = np.where(mask[b, t], np.exp(logits), 0)
        out[b, t, i] = weights / weights.sum() @ value[b, :, j]
    return out


def _mask():
    mask = np.random.default_rng(1).random((B, T, S)) < 0.6
    mask[:, :, 0] = True
    return mask


@pytest.mark.parametrize(("n", "k"), [(3, 3), (6, 2), (5, 1)], ids=["multi_head", "grouped", "multi_query"])
def test_it_is_the_equation(n, k):
    arrays, mask = _arrays(n, k), _mask()
    out = attend(*map(jnp.asarray, arrays), mask=jnp.asarray(mask))
    np.testing.assert_allclose(out, _naive(*arrays, mask), atol=2e-6)


def test_a_soft_cap_bounds_the_logits_before_the_mask():
    arrays, mask = _arrays(3, 3), _mask()
    out = attend(*map(jnp.asarray, arrays), mask=jnp.asarray(mask), soft_cap=0.5)
    np.testing.assert_allclose(out, _naive(*arrays, mask, cap=0.5), atol=2e-6)


def test_a_bias_is_added_head_by_head():
    arrays, mask = _arrays(6, 2), _mask()
    bias = np.random.default_rng(2).standard_normal((1, 6, T, S)).astype(np.float32)
    out = attend(*map(jnp.asarray, arrays), mask=jnp.asarray(mask), bias=jnp.asarray(bias))
    np.testing.assert_allclose(out, _naive(*arrays, mask, bias=bias), atol=2e-6)


def test_a_scale_replaces_the_root_of_the_head_dim():
    arrays = _arrays(3, 3)
    out = attend(*map(jnp.asarray, arrays), scale=1.0)
    np.testing.assert_allclose(out, _naive(*arrays, np.ones((B, T, S), bool), scale=1.0), atol=2e-6)


def test_a_mask_may_be_the_same_for_all_queries():
    arrays, mask = _arrays(3, 3), np.broadcast_to(_mask()[:, :1], (B, T, S))
    out = attend(*map(jnp.asarray, arrays), mask=jnp.asarray(mask[:, :1]))
    np.testing.assert_allclose(out, _naive(*arrays, mask), atol=2e-6)


def test_a_query_that_sees_nothing_stays_finite():
    out = attend(*map(jnp.asarray, _arrays(3, 3)), mask=jnp.zeros((B, T, S), bool))
    assert np.isfinite(out).all()


def test_the_result_has_the_query_s_type():
    assert attend(*(jnp.asarray(array, jnp.bfloat16) for array in _arrays(3, 3))).dtype == jnp.bfloat16


def _with_sinks(n, sinks, **fields):
    arrays = _arrays(n, n)
    return arrays, attend(*map(jnp.asarray, arrays), sinks=jnp.full((n,), sinks, jnp.float32), **fields)


def test_a_sink_takes_its_share_of_the_weights():
    """It is a key more, with that logit for every query of the head and with no value."""
    arrays, sinks = _arrays(6, 2), np.linspace(-1, 2, 6).astype(np.float32)
    out = attend(*map(jnp.asarray, arrays), mask=jnp.asarray(_mask()), sinks=jnp.asarray(sinks))
    more = [arrays[0], *(np.concatenate([array, 0 * array[:, :1]], axis=1) for array in arrays[1:])]
    bias = np.concatenate([np.zeros((1, 6, T, S)), np.tile(sinks[:, None, None], (1, 1, T, 1))], axis=-1)
    mask = np.concatenate([_mask(), np.ones((B, T, 1), bool)], axis=-1)
    expected = attend(*map(jnp.asarray, more), mask=jnp.asarray(mask), bias=jnp.asarray(bias, jnp.float32))
    np.testing.assert_allclose(out, expected, atol=2e-6)


def test_a_sink_of_minus_infinity_takes_nothing():
    arrays, out = _with_sinks(3, -jnp.inf)
    np.testing.assert_allclose(out, attend(*map(jnp.asarray, arrays)), atol=1e-6)


def test_a_query_that_sees_nothing_but_a_sink_gets_zeros():
    np.testing.assert_array_equal(_with_sinks(3, 0.0, mask=jnp.zeros((B, T, S), bool))[1], 0)


def test_dropped_weights_are_zero_and_the_others_scaled_up():
    """With the unit vectors as values the result is the weights."""
    query, key, _ = map(jnp.asarray, _arrays(3, 3))
    value = jnp.broadcast_to(jnp.eye(S)[None, :, None], (B, S, 3, S))
    wide = lambda x: jnp.pad(x, [(0, 0)] * 3 + [(0, S - H)])
    see = partial(attend, wide(query), wide(key), value, scale=1.0)
    whole, some = see(), see(dropout=0.25, dropout_key=jax.random.key(0))
    kept = some != 0
    np.testing.assert_allclose(some, jnp.where(kept, whole / 0.75, 0), rtol=1e-5)
    assert abs(jnp.mean(kept) - 0.75) < 0.1


def test_heads_that_do_not_group_are_refused():
    with pytest.raises(ValueError, match="num_heads=5 must be a multiple of num_kv_heads=2"):
        attend(*map(jnp.asarray, _arrays(5, 2)))


def _picture(mask):
    return ["".join(".x"[int(see)] for see in row) for row in np.asarray(mask[0])]


PLACES = jnp.arange(6)[None]


def test_causal_mask():
    assert _picture(attention_mask(PLACES, PLACES, causal=True)) == [
        "x.....",
        "xx....",
        "xxx...",
        "xxxx..",
        "xxxxx.",
        "xxxxxx",
    ]


def test_causal_mask_of_packed_documents():
    segments = jnp.asarray([[1, 1, 1, 2, 2, 0]])
    mask = attention_mask(PLACES, PLACES, causal=True, query_segments=segments, key_segments=segments)
    assert _picture(mask) == [
        "x.....",
        "xx....",
        "xxx...",
        "...x..",
        "...xx.",
        ".....x",
    ]


def test_mask_that_looks_ahead_but_not_at_padding():
    valid = jnp.asarray([[True, True, True, True, False, False]])
    assert _picture(attention_mask(PLACES, PLACES, causal=False, key_valid=valid)) == ["xxxx.."] * 6


def test_causal_mask_of_two_queries_behind_a_cache():
    assert _picture(attention_mask(jnp.asarray([[3, 4]]), PLACES, causal=True)) == ["xxxx..", "xxxxx."]


def test_causal_mask_with_a_window_of_three():
    assert _picture(attention_mask(PLACES, PLACES, causal=True, window=3)) == [
        "x.....",
        "xx....",
        "xxx...",
        ".xxx..",
        "..xxx.",
        "...xxx",
    ]


def test_mask_that_looks_ahead_with_a_window_of_two():
    assert _picture(attention_mask(PLACES, PLACES, causal=False, window=2)) == [
        "xx....",
        "xxx...",
        ".xxx..",
        "..xxx.",
        "...xxx",
        "....xx",
    ]


def test_a_window_moves_along_a_cache():
    queries = jnp.asarray([[3, 4]])
    assert _picture(attention_mask(queries, PLACES, causal=True, window=2)) == ["..xx..", "...xx."]
