"""Scaled dot-product attention with grouped key-value heads.

    attention(Q, K, V) = softmax(cap(Q K^T / sqrt(h)) + bias) V,      cap(z) = c tanh(z / c)

Vaswani et al., 2017, arXiv 1706.03762, eq. 1; grouped heads: Ainslie et al., GQA, 2023, arXiv 2305.13245 (one key-value
head is Shazeer's multi-query attention, arXiv 1911.02150); soft cap: Gemma 2, 2024, arXiv 2408.00118, sec. 2; window:
Beltagy et al., Longformer, 2020, arXiv 2004.05150, and Jiang et al., Mistral 7B, 2023, arXiv 2310.06825, sec. 2; sinks:
Xiao et al., 2023, arXiv 2309.17453, as the learned logits of GPT-OSS, 2025, arXiv 2508.10925, sec. 2.2.
"""

import jax
import jax.numpy as jnp

from arch.ops.dropout import dropout as drop
from arch.typing import Array, Bool, Float, Int, Key

MASKED = -0.7 * float(jnp.finfo(jnp.float32).max)
"""The logit of a masked pair: finite, so that a row with nothing to see stays finite."""


def attend(
    query: Float[Array, "b t n h"],
    key: Float[Array, "b s k h"],
    value: Float[Array, "b s k v"],
    *,
    mask: Bool[Array, "#b #t s"] | Bool[Array, "#b #n t s"] | None = None,
    bias: Float[Array, "#b n t s"] | None = None,
    sinks: Float[Array, "n"] | None = None,
    scale: float | None = None,
    soft_cap: float = 0.0,
    dropout: float = 0.0,
    dropout_key: Key[Array, ""] | None = None,
) -> Float[Array, "b t n v"]:
    """The dense reference: softmax in float32, result in query's dtype.

    Args:
      query: [b t n h].
      key: [b s k h]; head i of the query reads key-value head i // (n / k).
      value: [b s k v].
      mask: [b t s] True where the query may see the key (b or t may be 1), or [b n t s] by heads; None for all.
      bias: [b n t s] added to the logits.
      sinks: [n] a logit of each head that stands in the softmax's denominator only; None for none.
      scale: factor of the logits; None for 1 / sqrt(h).
      soft_cap: bound of the logits; 0 for none.
      dropout: probability of zeroing a weight of the softmax, the others scaled up.
      dropout_key: for dropout; needed where it is not 0.

    Raises:
      ValueError: n is not a multiple of k.
    """
    b, t, n, h = query.shape
    k = key.shape[2]
    if n % k:
        raise ValueError(f"num_heads={n} must be a multiple of num_kv_heads={k}")
    wide = jnp.promote_types(query.dtype, jnp.float32)
    order = "bkgth" if t * (n // k) > h else "btkgh"  # XLA then transposes the lesser on CPU: keys or logits
    grouped = jnp.einsum(f"btkgh->{order}", query.reshape(b, t, k, n // k, h))
    logits = jnp.einsum(f"{order},bskh->bkgts", grouped, key, preferred_element_type=wide)
    logits = logits * (h**-0.5 if scale is None else scale)
    if soft_cap:
        logits = soft_cap * jnp.tanh(logits / soft_cap)
    if bias is not None:
        logits = logits + bias.reshape(-1, k, n // k, *bias.shape[2:])
    if mask is not None:
        mask = mask[:, None] if mask.ndim == 3 else mask
        heads = (1, 1) if mask.shape[1] == 1 else (k, n // k)
        logits = jnp.where(mask.reshape(mask.shape[0], *heads, *mask.shape[2:]), logits, MASKED)
    weights = _softmax(logits, None if sinks is None else sinks.reshape(k, n // k, 1, 1)).astype(query.dtype)
    if dropout:
        weights = drop(weights, dropout_key, rate=dropout)
    out = jnp.einsum("bkgts,bskh->bkgth", weights, value)  # in this order no copy of the values is made
    return out.transpose(0, 3, 1, 2, 4).reshape(b, t, n, value.shape[-1])


def _softmax(logits, sinks):
    """Softmax over the last axis, with exp(sinks) in the denominator."""
    if sinks is None:
        return jax.nn.softmax(logits, axis=-1)
    top = jax.lax.stop_gradient(jnp.maximum(jnp.max(logits, axis=-1, keepdims=True), sinks))
    weights = jnp.exp(logits - top)
    return weights / (jnp.sum(weights, axis=-1, keepdims=True) + jnp.exp(sinks - top))


def attention_mask(
    query_index: Int[Array, "#b t"],
    key_index: Int[Array, "#b s"],
    *,
    causal: bool,
    window: int = 0,
    query_segments: Int[Array, "b t"] | None = None,
    key_segments: Int[Array, "b s"] | None = None,
    key_valid: Bool[Array, "b s"] | None = None,
) -> Bool[Array, "#b t s"]:
    """[b t s] True where a query may see a key.

    Args:
      query_index: [b t] place of each query in its row.
      key_index: [b s] place of each key in its row.
      causal: a query sees only keys whose place is not after its own.
      window: a query sees only keys less than so many places away: when causal the last `window` ones, itself
        included, else window - 1 more after it; 0 for all.
      query_segments: [b t] packed documents; a query sees only its own.
      key_segments: [b s], together with `query_segments`.
      key_valid: [b s] False for keys nobody sees.
    """
    mask = jnp.ones((1, query_index.shape[1], key_index.shape[1]), bool)
    distance = query_index[:, :, None] - key_index[:, None, :]
    if causal:
        mask &= distance >= 0
    if window:
        mask &= jnp.abs(distance) < window
    if query_segments is not None:
        mask &= query_segments[:, :, None] == key_segments[:, None, :]
    if key_valid is not None:
        mask &= key_valid[:, None, :]
    return mask


def visible_pairs(length: int, *, causal: bool, window: int = 0) -> int:
    """How many entries of `attention_mask` are True in a row of so many tokens that is one document."""
    reach = min(window or length, length)
    behind = length * reach - reach * (reach - 1) // 2
    return behind if causal else 2 * behind - length
