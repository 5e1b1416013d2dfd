"""Attention with a kernel in place of the softmax: a product of features, so that the sum over tokens is a state.

    o_i = sum_j (phi(q_i) . phi(k_j)) v_j / sum_j (phi(q_i) . phi(k_j)),      j <= i when causal, else all of a document

Katharopoulos et al., Transformers are RNNs: Fast Autoregressive Transformers with Linear Attention, 2020, arXiv
2006.16236, sec. 3.2 and 3.3 (phi = elu + 1, eq. 7). The denominator is one more channel of the values, 1 everywhere.
"""

from collections.abc import Callable

import jax.numpy as jnp

from arch.ops.linear_attention.recurrence import CHUNK, linear_attention
from arch.typing import Array, Bool, Float

FEATURE_MAPS = {
    "elu": lambda x: jnp.where(x > 0, x + 1, jnp.exp(jnp.minimum(x, 0))),  # expm1(x) + 1 loses small values
    "relu": lambda x: jnp.maximum(x, 0),
}
LEAST = 1e-12
"""Denominators nearer to zero are taken for this: a query whose features are all zero gets zeros."""


def causal_kernel_attention(
    query: Float[Array, "b t n h"],
    key: Float[Array, "b t n h"],
    value: Float[Array, "b t n v"],
    log_decay: Float[Array, "#b #t #n 1"] | None = None,
    *,
    state: Float[Array, "b n h _"] | None = None,
    reset: Bool[Array, "b t"] | None = None,
    valid: Bool[Array, "b t"] | None = None,
    chunk: int = CHUNK,
    recurrence: Callable = linear_attention,
) -> tuple[Float[Array, "b t n v"], Float[Array, "b n h v+1"] | None]:
    """Each token's mean over itself and what came before, weighted by the kernel.

    Args:
      query: features of the queries.
      key: features of the keys.
      value: what is averaged.
      log_decay: by which the weights of all earlier tokens fall at each token; None for not at all.
      state: sums over the tokens before, the last channel that of the weights; None is zeros.
      reset: True at the first token of a packed segment.
      valid: False for tokens that none sees; what comes out at these has no meaning.
      chunk: tokens that are multiplied at a time, a power of two.
      recurrence: what sums up, `linear_attention` or a kernel that is called like it.

    Returns:
      o in value.dtype, and the state after the last token in float32 or wider; None if `recurrence` tells none.
    """
    wide = jnp.promote_types(value.dtype, jnp.float32)
    out, state = recurrence(
        query, key, _with_ones(value.astype(wide)), log_decay, state=state, reset=reset, valid=valid, chunk=chunk
    )
    return _mean(out).astype(value.dtype), state


def kernel_attention(
    query: Float[Array, "b t n h"],
    key: Float[Array, "b t n h"],
    value: Float[Array, "b t n v"],
    *,
    reset: Bool[Array, "b t"] | None = None,
    valid: Bool[Array, "b t"] | None = None,
    chunk: int = CHUNK,
) -> Float[Array, "b t n v"]:
    """Each token's mean over all tokens, those after it too; see `causal_kernel_attention`.

    With segments it is the sum from the left and the sum from the right, less the token itself, which is in both.
    """
    wide = jnp.promote_types(jnp.result_type(query, key, value), jnp.float32)
    query, key, values = query.astype(wide), key.astype(wide), _with_ones(value.astype(wide))
    if valid is not None:
        key = jnp.where(valid[..., None, None], key, 0)
    if reset is None:
        out = jnp.einsum("btnh,bnhv->btnv", query, jnp.einsum("bsnh,bsnv->bnhv", key, values))
    else:
        left, _ = linear_attention(query, key, values, reset=reset, chunk=chunk)
        right, _ = linear_attention(
            *(jnp.flip(x, 1) for x in (query, key, values)), reset=reversed_starts(reset), chunk=chunk
        )
        out = left + jnp.flip(right, 1) - jnp.sum(query * key, axis=-1, keepdims=True) * values
    return _mean(out).astype(value.dtype)


def reversed_starts(reset: Bool[Array, "b t"]) -> Bool[Array, "b t"]:
    """Where segments start in the rows read from the right, from where they start read from the left."""
    ends = jnp.pad(reset[:, 1:], ((0, 0), (0, 1)), constant_values=True)
    return jnp.flip(ends, 1)


def _with_ones(value):
    return jnp.concatenate([value, jnp.ones_like(value[..., :1])], axis=-1)


def _mean(sums):
    total, weight = sums[..., :-1], sums[..., -1:]
    return total / jnp.where(jnp.abs(weight) < LEAST, LEAST, weight)
