"""Attention a chunk of queries at a time: no array of all pairs of tokens, and no work on pairs that nobody may see.

    forward    S_i = Q_i K^T / sqrt(h),   L_i = log rowsum exp(S_i),   O_i = exp(S_i - L_i) V           keeps O and L
    backward   P_i = exp(S_i - L_i),   dS_i = P_i * (dO_i V^T - rowsum(dO_i * O_i))                     S_i once more
               dQ_i = dS_i K,   dK = sum_i dS_i^T Q_i,   dV = sum_i P_i^T dO_i

Dao et al., FlashAttention, 2022, arXiv 2205.14135, sec. 3.1 and app. B.2 to B.4, with whole rows of keys: a chunk of
queries meets all keys that its mask can show it, so that the softmax needs no running maximum. The reference is
`arch.ops.attention.attend` behind `attention_mask`. This is XLA's own code for any device; on CPU, training with it is
faster than with the reference from a few hundred tokens on (`benchmarks/throughput.py`).
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from arch.ops.attention import MASKED, attention_mask
from arch.typing import Array, Bool, Float, Int

CHUNK, MOST_CHUNKS = 128, 8
"""Queries of a chunk, in rows of up to CHUNK * MOST_CHUNKS tokens; longer rows have as many longer chunks, since each
one adds to the program."""


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

    A query that may see nothing gets a finite result and gives no gradient.

    Args:
      query: [b t n h].
      key: [b t k h]; head i of the query reads key-value head i // (n / k).
      value: [b t k v].
      causal: a query sees only keys whose place is not after its own.
      window: a query sees only keys less than so many places away; 0 for all.
      segments: [b t] packed documents; a query sees only its own.
      valid: [b t] False for keys nobody sees.
      scale: factor of the logits; None for 1 / sqrt(h).
      chunk: queries at a time; 0 for `CHUNK`, or an eighth of a longer row.

    Raises:
      ValueError: n is not a multiple of k.
    """
    b, t, n, h = query.shape
    k = key.shape[2]
    if n % k:
        raise ValueError(f"num_heads={n} must be a multiple of num_kv_heads={k}")
    grouped = query.reshape(b, t, k, n // k, h).transpose(0, 2, 3, 1, 4)
    heads = (array.swapaxes(1, 2) for array in (key, value))
    factor = h**-0.5 if scale is None else scale
    out = _attend((chunk or _chunk(t), causal, window), factor, grouped, *heads, segments, valid)
    return out.transpose(0, 3, 1, 2, 4).reshape(b, t, n, value.shape[-1])


def _spans(t: int, chunk: int, causal: bool, window: int):
    """Where each chunk of queries begins and ends, and where the keys do that any of them may see."""
    for begin in range(0, t, chunk):
        end = min(begin + chunk, t)
        first = max(0, begin - window + 1) if window else 0
        last = end if causal else min(t, end + window - 1) if window else t
        yield slice(begin, end), slice(first, last)


def visited_pairs(length: int, *, causal: bool, window: int = 0) -> int:
    """Pairs of tokens whose logits are computed: those that see each other, and the rest of their chunks."""
    spans = _spans(length, _chunk(length), causal, window)
    return sum((queries.stop - queries.start) * (keys.stop - keys.start) for queries, keys in spans)


def _chunk(t: int) -> int:
    return max(CHUNK, -(-t // MOST_CHUNKS))


def _mask(rule, queries: slice, keys: slice, segments, valid):
    """[b 1 1 t s] of one chunk."""
    _, causal, window = rule
    places = (jnp.arange(part.start, part.stop)[None] for part in (queries, keys))
    given = {} if valid is None else {"key_valid": valid[:, keys]}
    if segments is not None:
        given |= {"query_segments": segments[:, queries], "key_segments": segments[:, keys]}
    return attention_mask(*places, causal=causal, window=window, **given)[:, None, None]


def _product(equation: str, *arrays):
    """An einsum of arrays in the first one's dtype, accumulated and returned in float32 or wider."""
    dtype = arrays[0].dtype
    wide = jnp.promote_types(dtype, jnp.float32)
    return jnp.einsum(equation, *(array.astype(dtype) for array in arrays), preferred_element_type=wide)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _attend(rule, factor, query, key, value, segments, valid):
    return _forward(rule, factor, query, key, value, segments, valid)[0]


def _forward(rule, factor, query, key, value, segments, valid):
    """query [b k g t h]; key [b k t h], value [b k t v]. The logits are scaled behind their products, which are wide."""
    outs, normalisers = [], []
    for queries, keys in _spans(query.shape[3], *rule):
        query, outs = lax.optimization_barrier((query, outs))  # one chunk after the other
        logits = factor * _product("bkgth,bksh->bkgts", query[:, :, :, queries], key[:, :, keys])
        logits = jnp.where(_mask(rule, queries, keys, segments, valid), logits, MASKED)
        top = jnp.max(logits, axis=-1, keepdims=True)
        weights = jnp.exp(logits - top)
        total = jnp.sum(weights, axis=-1, keepdims=True)
        outs.append((_product("bkgts,bksh->bkgth", weights.astype(query.dtype), value[:, :, keys]) / total))
        normalisers.append(top + jnp.log(total))
    out = jnp.concatenate(outs, axis=3).astype(query.dtype)
    return out, (query, key, value, segments, valid, out, jnp.concatenate(normalisers, axis=3))


def _backward(rule, factor, residuals, d_out):
    """The products over queries have the small factor transposed, [h t] [t s]: XLA would copy the large one on CPU."""
    query, key, value, segments, valid, out, normaliser = residuals
    t = query.shape[3]
    inner = jnp.sum(d_out.astype(normaliser.dtype) * out, axis=-1, keepdims=True)
    query_t, d_out_t = query.swapaxes(3, 4), d_out.swapaxes(3, 4)
    d_queries, d_key, d_value = [], 0.0, 0.0
    for queries, keys in _spans(t, *rule):
        query, d_queries, d_key, d_value = lax.optimization_barrier((query, d_queries, d_key, d_value))
        logits = factor * _product("bkgth,bksh->bkgts", query[:, :, :, queries], key[:, :, keys])
        weights = jnp.exp(logits - normaliser[:, :, :, queries])
        weights = jnp.where(_mask(rule, queries, keys, segments, valid), weights, 0.0)
        d_weights = _product("bkgth,bksh->bkgts", d_out[:, :, :, queries], value[:, :, keys])
        d_logits = weights * (d_weights - inner[:, :, :, queries])
        around = [(0, 0)] * 3 + [(keys.start, t - keys.stop)]
        d_queries.append(_product("bksh,bkgts->bkgth", key[:, :, keys], d_logits))
        d_key += jnp.pad(_product("bkght,bkgts->bkhs", query_t[..., queries], d_logits), around)
        d_value += jnp.pad(_product("bkght,bkgts->bkhs", d_out_t[..., queries], weights), around)
    d_query = jnp.concatenate(d_queries, axis=3)
    gradients = factor * d_query, factor * d_key.swapaxes(2, 3), d_value.swapaxes(2, 3)
    return *(array.astype(query.dtype) for array in gradients), None, None


_attend.defvjp(_forward, _backward)
