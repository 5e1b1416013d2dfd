"""Attention over the blocks of a pattern that are not empty: time and memory grow with the blocks, not with N x N.

    forward    S = cap(Q_i K_j^T scale) + bias,   L_i = log sum_j rowsum exp(S),   O_i = sum_j exp(S - L_i) V_j
    backward   P = exp(S - L),  dS = P * (dO V^T - D),  D = rowsum(dO * O) - dL
               by keys, from the transposed map:  dV_j = sum_i P^T dO_i,  dK_j = sum_i dS^T Q_i,  dQ_i += dS K_j

Dao et al., FlashAttention, 2022, arXiv 2205.14135, sec. 3.1 and 3.3 (block-sparse), with rows of a block as whole as
they fit: a block of queries meets the gathered keys of its list in one product. The backward pass computes the weights
anew and visits just the blocks that the forward pass visited. This is XLA's own code for any device, in loops whose
program does not grow with the length (`arch.ops.patterns.schedule`). The reference is `dense_attend`.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from arch.ops.block_layout import Layout
from arch.ops.block_logits import Rows
from arch.ops.block_loops import LEAST, attend_blocks
from arch.ops.patterns.blocks import BlockMap
from arch.typing import Array, Bool, Float, Int

NOBODY = -(2**31)
"""The segment of a key that nobody sees."""


def sparse_attend(
    query: Float[Array, "b t n h"],
    key: Float[Array, "b s k h"],
    value: Float[Array, "b s k v"],
    block_map: BlockMap,
    *,
    query_segments: Int[Array, "b t"] | None = None,
    key_segments: Int[Array, "b s"] | None = None,
    valid: Bool[Array, "b s"] | None = None,
    places: tuple[Int[Array, "b t"], Int[Array, "b s"]] | None = None,
    bias: Callable | None = None,
    bias_operands: Any = (),
    sinks: Float[Array, "n"] | None = None,
    scale: float | None = None,
    soft_cap: float = 0.0,
) -> tuple[Float[Array, "b t n v"], Float[Array, "b n t"]]:
    """(result in query's dtype, logsumexp in float32); zeros and -inf where a query sees nothing.

    Args:
      query: [b t n h].
      key: [b s k h]; head i of the query reads key-value head i // (n / k).
      value: [b s k v].
      block_map: which keys each query sees, of t queries and s keys (`arch.ops.patterns.block_map`).
      query_segments: [b t] packed documents; a query sees only its own.
      key_segments: [b s], together with `query_segments`.
      valid: [b s] False for keys nobody sees.
      places: of queries and of keys, by which the bias tells them; None for their places in the row.
      bias: bias(bias_operands, query_place [c t'], key_place [c s']) -> [c n t' s'] is added to the logits of parts of
        the rows; it may close over no array.
      bias_operands: what the bias is made of; has a gradient.
      sinks: [n] a logit of each head that stands in the softmax's denominator only; part of the logsumexp.
      scale: factor of the logits; None for 1 / sqrt(h).
      soft_cap: bound of the logits; 0 for none.

    Raises:
      ValueError: sizes that do not fit each other or the map, or segments of one side only.
    """
    _check(query, key, block_map, query_segments, key_segments)
    factor = query.shape[3] ** -0.5 if scale is None else scale
    layout = Layout(block_map, query.shape[2], key.shape[2])
    rows = Rows(_segments(query, key, query_segments, key_segments, valid), places)
    return attend_blocks((layout, factor, soft_cap, bias), query, key, value, rows, bias_operands, sinks)


def dense_attend(
    query: Float[Array, "b t n h"],
    key: Float[Array, "b s k h"],
    value: Float[Array, "b s k v"],
    block_map: BlockMap,
    *,
    query_segments: Int[Array, "b t"] | None = None,
    key_segments: Int[Array, "b s"] | None = None,
    valid: Bool[Array, "b s"] | None = None,
    places: tuple[Int[Array, "b t"], Int[Array, "b s"]] | None = None,
    bias: Callable | None = None,
    bias_operands: Any = (),
    sinks: Float[Array, "n"] | None = None,
    scale: float | None = None,
    soft_cap: float = 0.0,
) -> tuple[Float[Array, "b t n v"], Float[Array, "b n t"]]:
    """The reference of `sparse_attend`, with all pairs at once: the same arguments and results."""
    _check(query, key, block_map, query_segments, key_segments)
    (b, t, n, h), k = query.shape, key.shape[2]
    wide = jnp.promote_types(query.dtype, jnp.float32)
    key, value = (jnp.repeat(array, n // k, axis=2) for array in (key, value))
    logits = jnp.einsum("btnh,bsnh->bnts", query, key, preferred_element_type=wide)
    logits = logits * (h**-0.5 if scale is None else scale)
    logits = soft_cap * jnp.tanh(logits / soft_cap) if soft_cap else logits
    if bias is not None:
        places = (jnp.arange(t)[None], jnp.arange(key.shape[1])[None]) if places is None else places
        logits += bias(bias_operands, *places)
    mask = jnp.asarray(block_map.dense())[None]
    segments = _segments(query, key, query_segments, key_segments, valid)
    if segments is not None:
        mask = mask & (segments[0][:, None, :, None] == segments[1][:, None, None, :])
    logits = jnp.where(mask, logits, -jnp.inf)
    if sinks is not None:
        sinks = jnp.broadcast_to(sinks[:, None, None], (b, n, t, 1)).astype(wide)
        logits = jnp.concatenate([logits, sinks], axis=-1)
    seen = jnp.any(logits > -jnp.inf, axis=-1)
    logsumexp = jax.nn.logsumexp(jnp.where(seen[..., None], logits, 0.0), axis=-1)
    weights = jnp.where(seen[..., None], jnp.exp(logits - logsumexp[..., None]), 0.0)[..., : key.shape[1]]
    out = jnp.einsum("bnts,bsnv->btnv", weights.astype(query.dtype), value, preferred_element_type=wide)
    return out.astype(query.dtype), jnp.where(seen, logsumexp, -jnp.inf)


def merge(
    parts: list[tuple[Float[Array, "b t n v"], Float[Array, "b n t"]]],
) -> tuple[Float[Array, "b t n v"], Float[Array, "b n t"]]:
    """Attention of the same queries to disjoint sets of keys, each (result, logsumexp), as attention to all of them."""
    wide = jnp.promote_types(parts[0][0].dtype, jnp.float32)
    tops = jnp.stack([logsumexp for _, logsumexp in parts])
    top = lax.stop_gradient(jnp.maximum(jnp.max(tops, axis=0), LEAST))
    shares = jnp.exp(tops - top)
    total = jnp.sum(shares, axis=0)
    some = total > 0
    safe = jnp.where(some, total, 1.0)
    weights = jnp.swapaxes(shares / safe, 2, 3)[..., None]
    out = sum(weight * part.astype(wide) for weight, (part, _) in zip(weights, parts, strict=True))
    return out.astype(parts[0][0].dtype), jnp.where(some, top + jnp.log(safe), -jnp.inf)


def _check(query, key, block_map, query_segments, key_segments):
    (_, t, n, _), (_, s, k, _) = query.shape, key.shape
    if n % k:
        raise ValueError(f"num_heads={n} must be a multiple of num_kv_heads={k}")
    if (block_map.query_length, block_map.key_length) != (t, s):
        lengths = f"({block_map.query_length}, {block_map.key_length})"
        raise ValueError(f"the map's lengths {lengths} must be those of query and key, ({t}, {s})")
    if block_map.heads not in (1, n):
        raise ValueError(f"the map's heads={block_map.heads} must be 1 or num_heads={n}")
    if (query_segments is None) != (key_segments is None):
        raise ValueError("query_segments and key_segments must be given together")


def _segments(query, key, query_segments, key_segments, valid):
    """([b t], [b s]) whose pairs must be equal to be seen, or None where all may be."""
    if query_segments is None:
        if valid is None:
            return None
        query_segments, key_segments = (jnp.zeros(array.shape[:2], jnp.int32) for array in (query, key))
    return query_segments, key_segments if valid is None else jnp.where(valid, key_segments, NOBODY)
