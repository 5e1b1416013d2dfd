"""Attention over a block map, with gradients, by the kernels of one kind of device.

    out = softmax(cap(Q K^T scale) - slope |i - j|) V  over the visible keys,    logsumexp = log of the softmax's sum

The backward pass recomputes the weights from the logsumexp (Dao et al., FlashAttention, 2022, arXiv 2205.14135, sec.
3.1) and visits exactly the blocks that the forward pass visited: by rows for dQ, by the transposed map for dK and dV.
The logsumexp has a gradient too, so that parts which share queries merge exactly.
"""

import functools
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from arch.kernels.block_attention import hopper, tpu
from arch.kernels.block_attention.rule import LOG2E, NOBODY, UNSEEN, Extras, Lists, Rule, Tables
from arch.kernels.block_attention.visits import visits
from arch.ops.patterns.blocks import BlockMap
from arch.typing import Array, Bool, Float, Int

KERNELS = {"tpu": tpu, "hopper": hopper}
Kernels = Literal["tpu", "hopper"]


def attend(
    query: Float[Array, "b t n h"],
    key: Float[Array, "b s k h"],
    value: Float[Array, "b s k v"],
    block_map: BlockMap,
    *,
    kernels: Kernels,
    query_segments: Int[Array, "b t"] | None = None,
    key_segments: Int[Array, "b s"] | None = None,
    valid: Bool[Array, "b s"] | None = None,
    slopes: Float[Array, "n"] | None = None,
    sinks: Float[Array, "n"] | None = None,
    scale: float | None = None,
    soft_cap: float = 0.0,
    given_tables: Tables | None = None,
    launch: Any = None,
) -> tuple[Float[Array, "b t n v"], Float[Array, "b n t"]]:
    """(out in query's dtype, logsumexp in float32); zeros and -inf where a query sees nothing.

    Args:
      query: [b t n h].
      key: [b s k h]; head i of the query reads key-value head i // (n / k).
      value: [b s k v].
      block_map: which keys each query sees, by blocks; see `arch.ops.patterns.blocks`.
      kernels: of which kind of device.
      query_segments: [b t] packed documents; a query sees only its own.
      key_segments: [b s], together with `query_segments`.
      valid: [b s] False for keys nobody sees.
      slopes: [n] of ALiBi, by the distance of query i and key j, |i - j|; they are constants, without a gradient.
      sinks: [n] a logit of each head that stands in the softmax's denominator only; part of the logsumexp.
      scale: factor of the logits; None for 1 / sqrt(h).
      soft_cap: bound of the logits; 0 for none.
      given_tables: the map's `tables` where they are arguments of the program; None for constants in it.
      launch: how the kernels are started, of their own kind; None as usual.

    Raises:
      ValueError: n is not a multiple of k, the map is of other lengths or heads, or the kernels do not take these
        operands.
    """
    (_, t, n, h), k = query.shape, key.shape[2]
    _check(query, key, value, block_map, query_segments, key_segments)
    module = KERNELS[kernels]
    bq, bk = block_map.block
    wrong = module.misfit(query.dtype, (h, value.shape[-1]), block_map.block)
    if wrong:
        raise ValueError(f"{wrong} for the kernels of kernels={kernels!r}")
    whole_queries, whole_keys = partial(_to_whole, block=bq), partial(_to_whole, block=bk)
    if valid is not None and key_segments is None:
        query_segments, key_segments = jnp.zeros(query.shape[:2], jnp.int32), jnp.zeros(key.shape[:2], jnp.int32)
    if valid is not None:
        key_segments = jnp.where(valid, key_segments, NOBODY)
    extras = Extras(
        None if query_segments is None else whole_queries(query_segments.astype(jnp.int32)),
        None if key_segments is None else whole_keys(key_segments.astype(jnp.int32)),
        None if slopes is None else jax.lax.stop_gradient(slopes.astype(jnp.float32)),
        None if sinks is None else sinks.astype(jnp.float32),
    )
    shared = block_map.heads == 1
    count = len(block_map.lists.blocks) * (n if shared else 1)
    rule = Rule(bq, bk, h**-0.5 if scale is None else scale, soft_cap, shared, count, launch)
    swap = (lambda array: array.swapaxes(1, 2)) if module.HEADS_FIRST else (lambda array: array)
    arrays = (swap(whole_queries(query)), swap(whole_keys(key)), swap(whole_keys(value)))
    read = given_tables or tables(block_map, n // k, kernels)
    out, logsumexp = _attend(kernels, rule, *arrays, extras, read)
    return swap(out)[:, :t], logsumexp[..., :t]


def _check(query, key, value, block_map, query_segments, key_segments):
    (_, t, n, _), (_, s, k, _) = query.shape, key.shape
    if n % k:
        raise ValueError(f"num_heads={n} must be a multiple of num_kv_heads={k}")
    if not query.dtype == key.dtype == value.dtype:
        dtypes = f"query.dtype={query.dtype}, key.dtype={key.dtype} and value.dtype={value.dtype}"
        raise ValueError(f"{dtypes} must be the same")
    if (query_segments is None) != (key_segments is None):
        raise ValueError("query_segments and key_segments must be given together")
    if block_map.heads not in (1, n):
        raise ValueError(f"the map's heads={block_map.heads} must be 1 or num_heads={n}")
    for name, length, given in (("query", t, block_map.query_length), ("key", s, block_map.key_length)):
        if length != given:
            raise ValueError(f"{name} length={length} must be the map's {given}")


def _to_whole(array, block):
    """[b blocks * block ...] with zeros behind."""
    more = -array.shape[1] % block
    return jnp.pad(array, ((0, 0), (0, more), *[(0, 0)] * (array.ndim - 2))) if more else array


def tables(block_map: BlockMap, group: int, kernels: Kernels) -> Tables:
    """The map as the kernels read it.

    A program that takes tables as arguments serves every map of the same lengths, blocks and heads whose lists and masks
    are as many.

    Args:
      block_map: which keys each query sees.
      group: query heads of a key-value head.
      kernels: of which kind of device.
    """
    stored = KERNELS[kernels].stored
    masks = block_map.masks if len(block_map.masks) else np.zeros((1, *block_map.block), bool)
    forth, back = _visits(block_map, group)
    return Tables(_lists(forth, stored(masks)), _lists(back, stored(masks.swapaxes(1, 2))))


def _lists(found, masks):
    """Arrays of visits, and the masks they name."""
    arrays = (getattr(found, name) for name in Lists._fields if name != "masks")
    return Lists(*map(jnp.asarray, (*arrays, masks)))


@functools.lru_cache(maxsize=64)
def _visits(block_map, group):
    """Those by rows and, a group of query heads together, by keys."""
    together = group if block_map.heads > 1 else 1
    return visits(block_map.lists), visits(block_map.transposed().lists, group=together)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _attend(kernels, rule, query, key, value, extras, tables):
    """In whole blocks, heads before or behind lengths as the kernels want them."""
    return KERNELS[kernels].forward(rule, query, key, value, extras, tables)


def _forward(kernels, rule, query, key, value, extras, tables):
    out, logsumexp = _attend(kernels, rule, query, key, value, extras, tables)
    return (out, logsumexp), (query, key, value, extras, tables, out, logsumexp)


def _backward(kernels, rule, residuals, gradients):
    query, key, value, extras, tables, out, logsumexp = residuals
    d_out, d_logsumexp = gradients
    module = KERNELS[kernels]
    inner = jnp.sum(out.astype(jnp.float32) * d_out.astype(jnp.float32), axis=-1)
    delta = (inner if module.HEADS_FIRST else inner.swapaxes(1, 2)) - d_logsumexp
    seen = jnp.isfinite(logsumexp)
    in_base_2 = jnp.where(seen, logsumexp * LOG2E, UNSEEN)
    found = module.backward(rule, query, key, value, extras, tables, d_out, in_base_2, delta)
    d_extras = Extras(None, None, None, None)
    if extras.sinks is not None:
        weight = jnp.where(seen, jnp.exp(extras.sinks[:, None] - logsumexp), 0.0)
        d_extras = d_extras._replace(sinks=-jnp.sum(weight * delta, axis=(0, 2)))
    if extras.slopes is not None:
        d_extras = d_extras._replace(slopes=jnp.zeros_like(extras.slopes))
    return *found, d_extras, None


_attend.defvjp(_forward, _backward)
