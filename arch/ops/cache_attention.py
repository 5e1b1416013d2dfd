"""Attention of new tokens to what a cache holds, themselves included: the reference of `arch.kernels.decode_attention`.

    out_i = softmax(cap(q_i K^T scale)) V    over the slots p_i - window < j <= p_i, p_i the slot of i's own key
"""

import jax.numpy as jnp

from arch.ops.attention import attend, attention_mask
from arch.typing import Array, Float, Int


def cache_attend(
    query: Float[Array, "b t n h"],
    key: Float[Array, "b k s h"],
    value: Float[Array, "b k s v"],
    place: Int[Array, "b t"],
    *,
    window: int = 0,
    sinks: Float[Array, "n"] | None = None,
    scale: float | None = None,
    soft_cap: float = 0.0,
) -> Float[Array, "b t n v"]:
    """The result in query's dtype; zeros where a query sees nothing.

    Args:
      query: [b t n h].
      key: [b k s h] heads before tokens, as in `arch.ops.cache`; head i of the query reads head i // (n / k).
      value: [b k s v].
      place: [b t] the slot of each query's own key; -1 for a query that sees nothing.
      window: a query sees only the last so many slots, its own included; 0 for all before it.
      sinks: [n] a logit of each head that stands in the softmax's denominator only.
      scale: factor of the logits; None for 1 / sqrt(h).
      soft_cap: bound of the logits; 0 for none.
    """
    mask = attention_mask(place, jnp.arange(key.shape[2])[None], causal=True, window=window)
    given = dict(mask=mask, sinks=sinks, scale=scale, soft_cap=soft_cap)
    out = attend(query, key.swapaxes(1, 2), value.swapaxes(1, 2), **given)
    return jnp.where(place[..., None, None] >= 0, out, 0.0)
