"""A new token attends to the visible blocks of its cache as in one pass over the row, and reads no other."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arch.ops import paged_cache
from arch.ops.patterns import block_map, causal, full, global_tokens, random_blocks, strided, window
from arch.ops.sparse_attention import dense_attend
from arch.ops.sparse_decode import decode_attend, visible

B, S, N, K, H, V = 2, 24, 4, 2, 3, 5
RNG = np.random.default_rng(0)
PATTERNS = {
    "window": causal & (window(5) | global_tokens(0)),
    "strided": strided(4),
    "random": causal & (window(3) | random_blocks(1, seed=1, size=4, causal=True)),
    "full": causal,
}
PLACES = jnp.asarray([[0, 13], [7, 23], [11, 2]])


def normal(*shape):
    return jnp.asarray(RNG.standard_normal(shape), jnp.float32)


def arrays():
    """Query, key and value of whole rows."""
    return normal(B, S, N, H), normal(B, S, K, H), normal(B, S, K, V)


@pytest.mark.parametrize("name", PATTERNS)
def test_it_is_a_row_of_the_pass_over_all(name):
    query, key, value = arrays()
    made, rest = block_map(PATTERNS[name], S, S, block=(3, 4)), dict(scale=0.7, soft_cap=2.0, sinks=normal(N))
    expected, _ = dense_attend(query, key, value, made, **rest)
    run = jax.jit(partial(decode_attend, block_map=made, **rest))
    for place in PLACES:
        here = jnp.arange(B), place
        found = run(query[here], key.swapaxes(1, 2), value.swapaxes(1, 2), place=place)
        np.testing.assert_allclose(found, expected[here], atol=1e-6)


def test_from_pages_it_is_the_same():
    page, made = 4, block_map(PATTERNS["window"], S, S, block=(3, 4))
    query, key, value = normal(B, N, H), normal(B, S, K, H), normal(B, S, K, H)
    valid = jnp.arange(S) < jnp.asarray([[13], [24]])
    cache = paged_cache.init(B, 12, page, row_pages=6, kv_heads=K, head_dim=H, dtype=jnp.float32)
    cache, place = paged_cache.append(cache, key, value, valid), jnp.asarray([12, 23])
    plain = decode_attend(query, key.swapaxes(1, 2), value.swapaxes(1, 2), place, made)
    np.testing.assert_allclose(
        decode_attend(query, cache.keys, cache.values, place, made, table=cache.table), plain, atol=1e-6
    )


def test_keys_behind_the_query_are_hidden_whatever_the_pattern():
    _, seen = visible(block_map(full, S, S, block=(4, 4)), jnp.asarray([5, 23]))
    np.testing.assert_array_equal(seen.sum(axis=(1, 2)), [6, 24])


@pytest.mark.usefixtures("optimized")
def test_what_a_step_reads_does_not_grow_with_the_cache():
    def temporaries(length):
        made = block_map(PATTERNS["window"], length, length, block=(64, 64))
        shape = lambda *sizes: jax.ShapeDtypeStruct(sizes, jnp.float32)
        cache = shape(1, 1, length, 8)
        run = partial(decode_attend, block_map=made)
        lowered = jax.jit(run).lower(shape(1, 1, 8), cache, cache, jax.ShapeDtypeStruct((1,), jnp.int32))
        return lowered.compile().memory_analysis().temp_size_in_bytes

    assert temporaries(8192) == temporaries(4096) < 4096 * 8 * 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(length=22), "the cache's length=22 must be a multiple of the map's blocks of 4 keys"),
        (dict(table=jnp.zeros((B, 6), jnp.int32)), "pages of 24 tokens must be as long as the map's blocks of 4 keys"),
        (dict(pattern=causal & random_blocks(1, seed=1, size=4, draws=N)), "the map's heads=4 must be 1"),
    ],
)
def test_what_does_not_fit_is_refused(change, message):
    made = block_map(change.get("pattern", causal), S, S, block=(3, 4))
    cache = normal(B, K, change.get("length", S), H)
    with pytest.raises(ValueError, match=message):
        decode_attend(normal(B, N, H), cache, cache, jnp.zeros(B, jnp.int32), made, table=change.get("table"))
