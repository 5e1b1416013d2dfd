"""Attention over blocks has the values, logsumexps and gradients of the dense reference, and meets no empty block."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arch.ops import alibi, block_loops, relative
from arch.ops.attention import attend
from arch.ops.patterns import block_list, block_map, causal, full, global_tokens, random_blocks, window
from arch.ops.patterns.schedule import schedule
from arch.ops.sparse_attention import dense_attend, merge, sparse_attend

B, T, H, V = 2, 23, 3, 5
RNG = np.random.default_rng(0)
SPARSE = causal & (window(4) | global_tokens(0, 9))
OWN = window(3) | random_blocks(2, 1, size=4, draws=6) | global_tokens(5)


def normal(*shape):
    return jnp.asarray(RNG.standard_normal(shape), jnp.float32)


def arrays(n, k, queries=T, keys=T):
    """Query, key, value."""
    return normal(B, queries, n, H), normal(B, keys, k, H), normal(B, keys, k, V)


def with_gradients(function, pattern, given, *, block=(4, 5), **rest):
    """Result, logsumexp, and the gradients by arrays, sinks and the bias's operands, for a cotangent of each."""
    made = block_map(pattern, given[0].shape[1], given[1].shape[1], block=block)
    traced = {name: rest.pop(name) for name in ("sinks", "bias_operands") if name in rest}

    @jax.jit
    def run(given, traced):
        (out, logsumexp), vjp = jax.vjp(lambda given, traced: function(*given, made, **traced, **rest), given, traced)
        seen = jnp.isfinite(logsumexp)
        wave = lambda array: jnp.sin(jnp.arange(array.size, dtype=array.dtype)).reshape(array.shape)
        return out, logsumexp, vjp((wave(out), jnp.where(seen, wave(logsumexp), 0.0)))

    return run(given, traced)


def holds(pattern, given, atol=1e-5, **rest):
    actual, expected = (with_gradients(function, pattern, given, **rest) for function in (sparse_attend, dense_attend))
    jax.tree.map(partial(np.testing.assert_allclose, atol=atol), actual, expected)
    return actual


TABLE = {"bias": partial(relative.bias, max_distance=9, bidirectional=True), "bias_operands": normal(6, 6)}
CASES = {
    "causal": (causal, 2, 2, {}),
    "grouped": (SPARSE, 6, 2, {"scale": 0.7}),
    "multi_query": (window(5), 3, 1, {"soft_cap": 2.0}),
    "own_maps": (OWN, 6, 2, {"sinks": normal(6)}),
    "own_maps_biased": (OWN, 6, 3, TABLE),
    "biased": (SPARSE, 6, 2, TABLE | {"soft_cap": 3.0}),
}


def _pairs():
    """Each case with one of the two sizes of steps, and slowly with the other."""
    for index, name in enumerate(CASES):
        for turn, step in enumerate((1, block_loops.STEP)):
            marks = [] if index % 2 == turn else [pytest.mark.slow]
            yield pytest.param(*CASES[name], step, id=f"{name}-{step}", marks=marks)


@pytest.mark.parametrize(("pattern", "n", "k", "rest", "step"), list(_pairs()))
def test_values_and_gradients_are_those_of_the_reference(pattern, n, k, rest, step, monkeypatch):
    monkeypatch.setattr(block_loops, "STEP", step)
    holds(pattern, arrays(n, k), **rest)


def test_a_row_that_fills_a_step_up_counts_once(monkeypatch):
    monkeypatch.setattr(block_loops, "STEP", 1300)
    pattern, given = window(5), arrays(3, 1)
    lists = block_map(pattern, T, T, block=(4, 5)).transposed().lists
    loops = schedule(lists, blocks=1300 // (B * 3 * 4 * 5))
    assert any(len(np.unique(loop.rows)) < loop.rows.size for loop in loops)
    holds(pattern, given, **TABLE | {"bias_operands": normal(6, 3)})


def test_segments_and_padding_hide_pairs():
    segments = jnp.asarray(np.repeat([[1, 2, 3, 0], [1, 1, 2, 2]], [6, 7, 5, 5], axis=1), jnp.int32)
    valid = jnp.arange(T)[None] < jnp.asarray([[T], [17]])
    holds(window(9), arrays(2, 2), query_segments=segments, key_segments=segments, valid=valid)


@pytest.mark.parametrize(("pattern", "k"), [(SPARSE, 2), (OWN, 6)])
def test_a_bias_may_tell_pairs_by_places_that_rows_choose(pattern, k):
    places = tuple(jnp.asarray(RNG.integers(0, 9, (B, T)), jnp.int32) for _ in range(2))
    holds(pattern, arrays(6, k), places=places, **TABLE)


def test_queries_and_keys_may_differ_in_number():
    holds(window(6), arrays(2, 1, queries=7, keys=19))


def test_slopes_of_alibi_are_a_bias():
    slopes = jnp.asarray(alibi.slopes(6), jnp.float32)
    holds(causal & window(11), arrays(6, 3), bias=alibi.bias, bias_operands=slopes)


def test_a_query_that_sees_nothing_gets_zeros_and_gives_no_gradient():
    valid = jnp.zeros((B, T), bool)
    out, logsumexp, gradients = with_gradients(sparse_attend, SPARSE, arrays(2, 2), valid=valid)
    assert not np.any(out) and np.all(logsumexp == -np.inf)
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(gradients))


def test_a_query_whose_blocks_are_all_empty_gets_zeros():
    out, logsumexp = sparse_attend(*arrays(2, 2), block_map(causal & global_tokens(15), T, T, block=(4, 5)))
    assert not np.any(out[:, :15]) and np.all(logsumexp[:, :, :15] == -np.inf)
    assert np.all(np.isfinite(logsumexp[:, :, 15:]))


def test_extreme_logits_stay_finite():
    query, key, value = arrays(2, 2)
    out, logsumexp, gradients = with_gradients(sparse_attend, SPARSE, (1e4 * query, 1e4 * key, value))
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves((out, gradients)))
    assert np.max(logsumexp) > 1e7


def test_the_reference_is_the_one_of_attention():
    given = arrays(6, 2)
    made = block_map(SPARSE, T, T)
    expected = attend(*given, mask=jnp.asarray(made.dense()), sinks=jnp.arange(6.0))
    np.testing.assert_allclose(dense_attend(*given, made, sinks=jnp.arange(6.0))[0], expected, atol=1e-6)


def test_parts_merge_into_the_whole():
    given, (near, whole) = arrays(4, 2), (window(size).dense(T, T)[0] for size in (4, 9))
    lists = (tuple(tuple(np.flatnonzero(row).tolist()) for row in mask) for mask in (near, whole & ~near, whole))
    first, second, expected = (dense_attend(*given, block_map(block_list(1, rows), T, T)) for rows in lists)
    jax.tree.map(partial(np.testing.assert_allclose, atol=1e-6), merge([first, second]), expected)


def test_parts_that_see_nothing_merge_into_nothing():
    nothing = jnp.zeros((B, T, 2, V)), jnp.full((B, 2, T), -jnp.inf)
    out, logsumexp = merge([nothing, nothing])
    assert not np.any(out) and np.all(logsumexp == -np.inf)


def test_in_bfloat16_the_result_is_near_that_of_float32():
    short = tuple(array.astype(jnp.bfloat16) for array in arrays(2, 1))
    out, logsumexp = sparse_attend(*short, block_map(SPARSE, T, T, block=(4, 5)))
    exact = dense_attend(*(array.astype(jnp.float32) for array in short), block_map(SPARSE, T, T))
    assert out.dtype == jnp.bfloat16 and logsumexp.dtype == jnp.float32
    np.testing.assert_allclose(out.astype(jnp.float32), exact[0], atol=0.03)


def test_a_map_of_other_lengths_is_refused():
    with pytest.raises(ValueError, match=r"the map's lengths \(8, 23\) must be those of query and key, \(23, 23\)"):
        sparse_attend(*arrays(2, 2), block_map(full, 8, T))
