"""Recurrences over rows whose tokens lie on several devices: states are exchanged, never tokens.

    S_out = F S_in + Z        for the tokens of one shard: F is what they make of a state, Z what they leave of nothing

Each shard finds its own F and Z; two shards side by side are together one such step, (F_2 F_1, F_2 Z_1 + Z_2), so that
the state before each shard follows in log2(c) exchanges (`entering`; Blelloch, Prefix Sums and Their Applications,
1990); from there its tokens go as ever. That is the chunked scan of one device with a shard for a chunk: Martin &
Cundy, 2017, arXiv 1709.04057, sec. 2.2; Dao & Gu, 2024, arXiv 2405.21060, sec. 8.2. F is a number a head or a channel,
or a matrix; where Z has no closed form, the recurrence runs once more for it.

All functions are called inside `shard_map`.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from arch.ops.linear_attention.recurrence import RESET
from arch.sharding.context import AXIS
from arch.typing import Array, Bool, Float

Span = tuple[Any, Any]
"""(F, Z) of tokens that follow each other."""


def entering(span: Span, join: Callable[[Span, Span], Span], empty: Any) -> Any:
    """The state before this shard's first token.

    Args:
      span: (F, Z) of this shard's tokens: trees of arrays.
      join: of two spans, one behind the other, the span of both.
      empty: the state before the row's first token.
    """
    index, size = lax.axis_index(AXIS), lax.axis_size(AXIS)

    def sent(tree, hop):
        return jax.tree.map(lambda leaf: lax.ppermute(leaf, AXIS, [(i, i + hop) for i in range(size - hop)]), tree)

    def chosen(first, one, other):
        return jax.tree.map(lambda a, b: jnp.where(index >= first, a, b), one, other)

    hop = 1
    while hop < size - 1:  # the last shard's span is nobody's business
        span = chosen(hop, join(sent(span, hop), span), span)
        hop *= 2
    return chosen(1, sent(span[1], 1), empty)


def scaled(one: Span, two: Span) -> Span:
    """`join` where F is a factor of each entry of the state, or broadcasts to one."""
    return one[0] * two[0], two[0] * one[1] + two[1]


def turned(one: Span, two: Span) -> Span:
    """`join` where F is a matrix of each head, F S."""
    return _product(two[0], one[0]), _product(two[0], one[1]) + two[1]


def turned_behind(one: Span, two: Span) -> Span:
    """`join` where it stands behind, S F."""
    return _product(one[0], two[0]), _product(one[1], two[0]) + two[1]


_product = partial(jnp.matmul, precision="highest")


def falls(
    log_decay: Float[Array, "b t ..."], reset: Bool[Array, "b t"] | None, valid: Bool[Array, "b t"] | None = None
) -> tuple[Float[Array, "b t ..."], Float[Array, "b ..."]]:
    """(the decay from each token to the last one, from before the first one to the last one), sums of log decays each.

    Args:
      log_decay: of each token; `-inf` to forget all.
      reset: True at the first token of a packed segment, which forgets all.
      valid: False for tokens at which nothing decays.
    """
    beside = lambda mask: mask.reshape(*mask.shape, *[1] * (log_decay.ndim - 2))
    log_decay = jnp.maximum(log_decay, RESET)
    if reset is not None:
        log_decay = jnp.where(beside(reset), RESET, log_decay)
    if valid is not None:
        log_decay = jnp.where(beside(valid), log_decay, 0)
    behind = jnp.concatenate([log_decay[:, 1:], jnp.zeros_like(log_decay[:, :1])], axis=1)
    return jnp.exp(lax.cumsum(behind, axis=1, reverse=True)), jnp.exp(jnp.sum(log_decay, axis=1))


def of_keys(
    key: Float[Array, "b t n h"],
    value: Float[Array, "b t n v"],
    log_decay: Float[Array, "#b #t #n #h"] | None,
    reset: Bool[Array, "b t"] | None,
    valid: Bool[Array, "b t"] | None,
) -> Span:
    """The span of `arch.ops.linear_attention.recurrence.linear_attention`: ([b n h 1], [b n h v])."""
    wide = jnp.promote_types(jnp.result_type(key, value), jnp.float32)
    key, value = key.astype(wide), value.astype(wide)
    if valid is not None:
        key = jnp.where(valid[..., None, None], key, 0)
    log_decay = jnp.zeros((1, 1, 1, 1), wide) if log_decay is None else log_decay.astype(wide)
    (batch, length), (_, _, heads, channels) = key.shape[:2], log_decay.shape
    left, whole = falls(jnp.broadcast_to(log_decay, (batch, length, heads, channels)), reset, valid)
    state = jnp.einsum("btnh,btnv->bnhv", left * key, value, precision="highest")
    return jnp.broadcast_to(whole[..., None], (*state.shape[:3], 1)), state


def of_groups(
    value: Float[Array, "b t n h"],
    key: Float[Array, "b t k m"],
    log_decay: Float[Array, "b t n"],
    reset: Bool[Array, "b t"] | None,
) -> Span:
    """The span of `arch.ops.ssd.decaying_attention`: ([b n 1 1], [b n h m]); n heads in k groups."""
    wide = jnp.promote_types(jnp.result_type(value, key, log_decay), jnp.float32)
    left, whole = falls(log_decay.astype(wide), reset)
    (b, t, n, h), k = value.shape, key.shape[2]
    written = (left[..., None] * value).reshape(b, t, k, n // k, h)
    state = jnp.einsum("btkgh,btkm->bkghm", written, key.astype(wide), precision="highest")
    return whole[..., None, None], state.reshape(b, n, h, -1)
