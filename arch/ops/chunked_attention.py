"""Attention a chunk at a time: no array of all pairs of tokens, and no work on pairs that nobody may see.

    forward    S_i = Q_i K^T / sqrt(h),   L_i = log rowsum exp(S_i),   O_i = exp(S_i - L_i) V     i: queries; keeps O, L
    backward   P_j = exp(S_j^T - L),   dS_j = P_j * (V_j dO^T - rowsum(dO * O))                   j: keys; S once more
               dV_j = P_j dO,   dK_j = dS_j Q,   dQ = sum_j dS_j^T K_j

Dao et al., FlashAttention, 2022, arXiv 2205.14135, sec. 3.1 and app. B.2 to B.4, with whole rows: a chunk of queries
meets all keys that its mask can show it, so that the softmax needs no running maximum, and in the backward pass a chunk
of keys all queries that may see it. Longer rows are cut in keys too, so that memory and program do not grow with them
(`arch.ops.sparse_attention`). The reference is `arch.ops.attention.attend` behind `attention_mask`. This is XLA's own
code for any device.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from arch.ops import patterns
from arch.ops.attention import MASKED, attention_mask
from arch.ops.sparse_attention import sparse_attend
from arch.typing import Array, Bool, Float, Int

CHUNK, MOST_CHUNKS = 128, 8
"""Queries of a chunk, in rows of up to CHUNK * MOST_CHUNKS tokens: each chunk adds to the program."""
MOST_BLOCK = 512
"""Queries and keys of a block of longer rows, at most, and an eighth of the row."""
LONGEST = 1 << 22
"""Tokens of a row."""


def chunked_attend(
    query: Float[Array, "b t n h"],
    key: Float[Array, "b t k h"],
    value: Float[Array, "b t k v"],
    *,
    causal: bool,
    window: int = 0,
    segments: Int[Array, "b t"] | None = None,
    valid: Bool[Array, "b t"] | None = None,
    scale: float | None = None,
    chunk: int = 0,
) -> Float[Array, "b t n v"]:
    """Self-attention with the softmax in float32, result in query's dtype.

    A query that may see nothing gets a finite result and gives no gradient. Memory grows with the length alone.

    Args:
      query: [b t n h].
      key: [b t k h]; head i of the query reads key-value head i // (n / k).
      value: [b t k v].
      causal: a query sees only keys whose place is not after its own.
      window: a query sees only keys less than so many places away; 0 for all.
      segments: [b t] packed documents; a query sees only its own.
      valid: [b t] False for keys nobody sees.
      scale: factor of the logits; None for 1 / sqrt(h).
      chunk: queries at a time, with all keys; 0 for `CHUNK`, or the blocks of a longer row.

    Raises:
      ValueError: n is not a multiple of k.
    """
    b, t, n, h = query.shape
    k = key.shape[2]
    if n % k:
        raise ValueError(f"num_heads={n} must be a multiple of num_kv_heads={k}")
    if not chunk and _long(t):
        sight = dict(query_segments=segments, key_segments=segments, valid=valid, scale=scale)
        return sparse_attend(query, key, value, blocks_of(t, causal=causal, window=window), **sight)[0]
    rule = (chunk or CHUNK, causal, window)
    factor = h**-0.5 if scale is None else scale
    return _attend(rule, factor, query.reshape(b, t, k, n // k, h), key, value, segments, valid)


def _chunks(t: int, chunk: int):
    """Where each begins and ends."""
    return [slice(begin, min(begin + chunk, t)) for begin in range(0, t, chunk)]


def _keys(queries: slice, t: int, causal: bool, window: int) -> slice:
    """The keys that any of these queries may see."""
    first = max(0, queries.start - window + 1) if window else 0
    last = queries.stop if causal else min(t, queries.stop + window - 1) if window else t
    return slice(first, last)


def _queries(keys: slice, t: int, causal: bool, window: int) -> slice:
    """The queries that may see any of these keys."""
    first = keys.start if causal else max(0, keys.start - window + 1) if window else 0
    return slice(first, min(t, keys.stop + window - 1) if window else t)


def visited_pairs(length: int, *, causal: bool, window: int = 0) -> int:
    """Pairs of tokens whose logits are computed: those that see each other, and the rest of their chunks."""
    if _long(length):
        return blocks_of(length, causal=causal, window=window).visited_pairs
    chunks = _chunks(length, CHUNK)
    spans = ((queries, _keys(queries, length, causal, window)) for queries in chunks)
    return sum((queries.stop - queries.start) * (keys.stop - keys.start) for queries, keys in spans)


def _long(t: int) -> bool:
    """Whether the row is cut in keys too."""
    return t > CHUNK * MOST_CHUNKS


def blocks_of(length: int, *, causal: bool, window: int = 0) -> patterns.BlockMap:
    """The blocks of a long row. Raises ValueError when the host has too many to look at."""
    if length > LONGEST:
        raise ValueError(f"{length=} must be at most {LONGEST}")
    pattern = patterns.causal if causal else patterns.full
    size = min(MOST_BLOCK, -(-length // MOST_CHUNKS))
    pattern = pattern & patterns.window(window) if window else pattern
    return patterns.block_map(pattern, length, length, block=(size, size))


def _mask(rule, queries: slice, keys: slice, segments, valid):
    """[b t s] of one chunk."""
    _, causal, window = rule
    places = (jnp.arange(part.start, part.stop)[None] for part in (queries, keys))
    given = {} if valid is None else {"key_valid": valid[:, keys]}
    if segments is not None:
        given |= {"query_segments": segments[:, queries], "key_segments": segments[:, keys]}
    return attention_mask(*places, causal=causal, window=window, **given)


def _product(equation: str, *arrays):
    """An einsum of arrays in the first one's dtype, accumulated and returned in float32 or wider."""
    dtype = arrays[0].dtype
    wide = jnp.promote_types(dtype, jnp.float32)
    return jnp.einsum(equation, *(array.astype(dtype) for array in arrays), preferred_element_type=wide)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _attend(rule, factor, query, key, value, segments, valid):
    """query [b t k g h]; key [b t k h]; value [b t k v] -> [b t n v]."""
    return _forward(rule, factor, query, key, value, segments, valid)[0]


def _forward(rule, factor, query, key, value, segments, valid):
    """The logits are scaled behind their products, which are wide."""
    query, key, value = query.transpose(0, 2, 3, 1, 4), key.swapaxes(1, 2), value.swapaxes(1, 2)
    b, k, g, t, _ = query.shape
    outs, normalisers = [], []
    for queries in _chunks(t, rule[0]):
        keys = _keys(queries, t, *rule[1:])
        query, outs = lax.optimization_barrier((query, outs))  # one chunk after the other
        logits = factor * _product("bkgth,bksh->bkgts", query[:, :, :, queries], key[:, :, keys])
        mask = _mask(rule, queries, keys, segments, valid)[:, None, None]
        logits = jnp.where(mask, logits, MASKED)
        top = jnp.max(logits, axis=-1, keepdims=True)
        weights = jnp.exp(logits - top)
        total = jnp.sum(weights, axis=-1, keepdims=True)
        outs.append(_product("bkgts,bksv->bkgtv", weights.astype(query.dtype), value[:, :, keys]) / total)
        normalisers.append(top + jnp.log(total))
    out = jnp.concatenate(outs, axis=3).astype(query.dtype).transpose(0, 3, 1, 2, 4).reshape(b, t, k * g, -1)
    return out, (query, key, value, segments, valid, out, jnp.concatenate(normalisers, axis=3)[..., 0])


def _backward(rule, factor, residuals, d_out):
    """With keys in rows and queries in columns, each product but that of dQ has its operands as they lie."""
    query, key, value, segments, valid, out, normaliser = residuals
    b, k, g, t, _ = query.shape
    inner = jnp.sum(d_out.astype(normaliser.dtype) * out, axis=-1).reshape(b, t, k, g).transpose(0, 2, 3, 1)
    d_out = d_out.reshape(b, t, k, g, -1).transpose(0, 2, 3, 1, 4)
    key_t, over_keys = key.swapaxes(2, 3), (slice(None), slice(None), None)
    d_query_t, d_keys, d_values = 0.0, [], []
    for keys in _chunks(t, rule[0]):
        queries = _queries(keys, t, *rule[1:])
        query, d_query_t, d_keys, d_values = lax.optimization_barrier((query, d_query_t, d_keys, d_values))
        q, d_o = query[:, :, :, queries], d_out[:, :, :, queries]
        logits = factor * _product("bksh,bkgth->bksgt", key[:, :, keys], q)
        mask = _mask(rule, queries, keys, segments, valid).swapaxes(1, 2)[:, None, :, None]
        weights = jnp.where(mask, jnp.exp(logits - normaliser[..., queries][over_keys]), 0.0)
        d_weights = _product("bksv,bkgtv->bksgt", value[:, :, keys], d_o)
        d_logits = weights * (d_weights - inner[..., queries][over_keys])
        d_values.append(_product("bksgt,bkgtv->bksv", weights, d_o))
        d_keys.append(_product("bksgt,bkgth->bksh", d_logits, q))
        around = [(0, 0)] * 4 + [(queries.start, t - queries.stop)]
        d_query_t += jnp.pad(_product("bkhs,bksgt->bkhgt", key_t[..., keys], d_logits), around)
    d_key, d_value = (jnp.concatenate(parts, axis=2).swapaxes(1, 2) for parts in (d_keys, d_values))
    gradients = factor * d_query_t.transpose(0, 4, 1, 3, 2), factor * d_key, d_value
    return *(array.astype(query.dtype) for array in gradients), None, None


_attend.defvjp(_forward, _backward)
