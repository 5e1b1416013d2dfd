"""Attention a chunk of queries at a time has the values and the gradients of the reference, and meets fewer pairs."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arch.ops import chunked_attention
from arch.ops.attention import attend, attention_mask
from arch.ops.chunked_attention import CHUNK, MOST_CHUNKS, chunked_attend, visited_pairs

B, T, H = 2, 11, 3
RNG = np.random.default_rng(0)
SEGMENTS = jnp.asarray([[1, 1, 1, 1, 2, 2, 2, 3, 3, 0, 0], [1] * 7 + [2] * 4])
VALID = jnp.arange(T)[None] < jnp.asarray([[T], [9]])


def arrays(n, k, length=T):
    """Query, key, value, and a cotangent of the result."""
    shapes = ((B, length, heads, H) for heads in (n, k, k, n))
    return [jnp.asarray(RNG.standard_normal(shape), jnp.float32) for shape in shapes]


def reference(query, key, value, *, causal, window=0, segments=None, valid=None, scale=None):
    """The dense one."""
    places = jnp.arange(query.shape[1])[None]
    given = dict(query_segments=segments, key_segments=segments, key_valid=valid)
    mask = attention_mask(places, places, causal=causal, window=window, **given)
    return attend(query, key, value, mask=mask, scale=scale)


def with_gradients(function, query, key, value, cotangent, **rest):
    """The result, and the gradients of query, key and value."""

    @jax.jit
    def run(heads, cotangent):
        out, vjp = jax.vjp(lambda *heads: function(*heads, **rest), *heads)
        return out, *vjp(cotangent)

    return run((query, key, value), cotangent)


@pytest.mark.parametrize(
    ("chunk", "rest"),
    [
        (3, {"causal": True}),
        (4, {"causal": False}),
        (4, {"causal": True, "window": 3}),
        (6, {"causal": False, "window": 3}),
        (4, {"causal": True, "segments": SEGMENTS, "valid": VALID, "scale": 0.3}),
        (T, {"causal": True, "segments": SEGMENTS}),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else str(value),
)
def test_values_and_gradients_are_those_of_the_reference(chunk, rest):
    given = arrays(6, 2)
    expected = with_gradients(reference, *given, **rest)
    actual = with_gradients(partial(chunked_attend, chunk=chunk), *given, **rest)
    for mine, theirs in zip(actual, expected, strict=True):
        np.testing.assert_allclose(mine, theirs, atol=3e-6)


def test_a_row_cut_in_keys_too_is_the_reference(monkeypatch):
    """As rows of more than CHUNK * MOST_CHUNKS tokens are."""
    monkeypatch.setattr(chunked_attention, "CHUNK", 1)
    given, rest = arrays(6, 2), dict(causal=True, window=7, segments=SEGMENTS, valid=VALID, scale=0.3)
    expected = with_gradients(reference, *given, **rest)
    assert chunked_attention.visited_pairs(T, causal=True, window=7) < T**2
    for mine, theirs in zip(with_gradients(chunked_attend, *given, **rest), expected, strict=True):
        np.testing.assert_allclose(mine, theirs, atol=3e-6)


def test_a_query_that_sees_nothing_stays_finite_and_gives_no_gradient():
    given = arrays(2, 2)
    rest = dict(causal=True, valid=jnp.zeros((B, T), bool), chunk=4)
    out, *gradients = with_gradients(chunked_attend, *given, **rest)
    assert np.isfinite(out).all()
    assert not any(np.any(gradient) for gradient in gradients)


@pytest.mark.parametrize("scale", [None, 0.3])
def test_in_bfloat16_the_result_is_as_exact_as_the_references(scale):
    """The gradients are less so: logits' gradients are rounded before their products, as in FlashAttention."""
    short = [4 * array.astype(jnp.bfloat16) for array in arrays(2, 1)]
    wide, rest = [array.astype(jnp.float32) for array in short], dict(causal=True, scale=scale)
    chunked = with_gradients(partial(chunked_attend, chunk=4), *short, **rest)
    dense, exact = with_gradients(reference, *short, **rest), with_gradients(reference, *wide, **rest)

    def error(ours, i):
        return float(jnp.linalg.norm(ours[i].astype(jnp.float32) - exact[i]) / jnp.linalg.norm(exact[i]))

    assert error(chunked, 0) <= 1.2 * error(dense, 0)
    assert all(gradient.dtype == jnp.bfloat16 and error(chunked, i) < 0.02 for i, gradient in enumerate(chunked))


@pytest.mark.usefixtures("optimized")
def test_no_array_of_all_pairs_exists():
    """The dense reference keeps several; here the gradient's temporaries are smaller than one."""
    length = CHUNK * MOST_CHUNKS
    assert temporaries(length) < 4 * length**2


@pytest.mark.usefixtures("optimized")
def test_temporaries_of_longer_rows_grow_with_the_length_alone():
    short, long = (temporaries(length) for length in (8192, 16384))
    assert long < 2.1 * short


def temporaries(length):
    """Bytes, of the gradient."""
    shape = jax.ShapeDtypeStruct((1, length, 1, 2), jnp.float32)
    gradient = jax.grad(lambda *heads: chunked_attend(*heads, causal=True).sum(), argnums=(0, 1, 2))
    return jax.jit(gradient).lower(shape, shape, shape).compile().memory_analysis().temp_size_in_bytes


def test_visited_pairs_are_little_more_than_half_of_all_when_causal():
    length = CHUNK * MOST_CHUNKS
    assert visited_pairs(length, causal=False) == length**2
    assert visited_pairs(length, causal=True) / length**2 == (MOST_CHUNKS + 1) / (2 * MOST_CHUNKS)


def test_visited_pairs_of_a_window_grow_with_the_length_alone():
    short, long = (visited_pairs(length, causal=True, window=CHUNK) for length in (4 * CHUNK, 8 * CHUNK))
    assert long < 2.3 * short


def test_heads_that_do_not_group_are_refused():
    with pytest.raises(ValueError, match="num_heads=5 must be a multiple of num_kv_heads=2"):
        chunked_attend(*arrays(5, 2)[:3], causal=True)
