"""WKV of RWKV-7: a state whose channels decay each by itself, and of which what stood at a key is taken away in part.

    S_t = diag(w_t) S_{t-1} - (a_t * c_t) (c_t . S_{t-1}) + k_t v_t^T        y_t = r_t . S_t

Peng et al., RWKV-7 "Goose" with Expressive Dynamic State Evolution, 2025, arXiv 2503.14456, sec. 4.1 (equation 17,
there of the transposed state). With u_t = -c_t . S_{t-1}, what is taken away, the state is a decayed sum of (a * c) u^T
and k v^T, and within a chunk that starts from S_0 the u solve a unit lower triangular system:

    u_i - sum_{j<i} (-c_i . D_{j,i-1} (a c)_j) u_j = -c_i . (D_{0,i-1} S_0 + sum_{j<i} D_{j,i-1} k_j v_j^T)

D_{j,i} = diag(w_{j+1} ... w_i). Products of pairs with such decays between are joined from halves, so that every
exponent is a sum of log decays and never a difference: nothing overflows or cancels, however strong the decays.
"""

from functools import partial
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.linalg import solve_triangular

from arch.ops import chunks
from arch.typing import Array, Bool, Float

Implementation = Literal["chunked", "parallel", "recurrent"]

RESET = -1e30
"""A log decay whose exponential is zero, and which may be multiplied by zero."""


def wkv7(
    receptance: Float[Array, "b t n h"],
    log_decay: Float[Array, "b t n h"],
    key: Float[Array, "b t n h"],
    value: Float[Array, "b t n v"],
    removal: Float[Array, "b t n h"],
    rate: Float[Array, "b t n h"],
    *,
    state: Float[Array, "b n h v"] | None = None,
    reset: Bool[Array, "b t"] | None = None,
    valid: Bool[Array, "b t"] | None = None,
    chunk: int = 16,
    implementation: Implementation | None = None,
) -> tuple[Float[Array, "b t n v"], Float[Array, "b n h v"]]:
    """Runs the recurrence over time from a given state.

    Args:
      receptance: r, what each token reads.
      log_decay: log w <= 0.
      key: k, where it writes.
      value: v, what it writes.
      removal: c, where it takes away; of length 1 for a stable recurrence.
      rate: a, how much of what stands there it takes away, from 0 to 1 a channel.
      state: S before the first token; None is zeros.
      reset: True at the first token of a packed segment, whose incoming state is then zero.
      valid: False for tokens that leave the state as it was; what comes out at these has no meaning.
      chunk: tokens that are multiplied at a time, a power of two; the backward pass keeps one state a chunk.
      implementation: 'chunked' has matrix products and a triangular solve within chunks and a scan over them;
        'parallel' is one chunk; 'recurrent' goes token by token. None is 'recurrent' for one token, else 'chunked'.

    Returns:
      y in value.dtype and the state after the last token, in float32 (float64 if an argument is), as all arithmetic is.

    Raises:
      ValueError: chunk or implementation is not one of the above.
    """
    if chunk < 1 or chunk & (chunk - 1):
        raise ValueError(f"chunk={chunk} must be a power of two")
    if implementation not in (None, "chunked", "parallel", "recurrent"):
        raise ValueError(f"implementation={implementation!r} must be None, 'chunked', 'parallel' or 'recurrent'")
    dtype = jnp.promote_types(jnp.result_type(receptance, log_decay, key, value, removal, rate), jnp.float32)
    log_decay = jnp.maximum(log_decay.astype(dtype), RESET)
    if reset is not None:
        log_decay, rate = (jnp.where(reset[..., None, None], at, x) for x, at in ((log_decay, RESET), (rate, 0)))
    if valid is not None:
        log_decay, key, rate = (jnp.where(valid[..., None, None], x, 0) for x in (log_decay, key, rate))
    tokens = _Tokens(receptance, log_decay, key, value, -removal, rate * removal)
    (batch, length, heads, channels), values = key.shape, value.shape[-1]
    state = jnp.zeros((batch, heads, channels, values), dtype) if state is None else state.astype(dtype)
    if implementation == "recurrent" or implementation is None and length == 1:
        over_time = jax.tree.map(lambda x: x.swapaxes(0, 1).astype(dtype), tokens)
        state, y = jax.lax.scan(_token_step, state, over_time)
        return y.swapaxes(0, 1).astype(value.dtype), state
    whole = 1 << max(length - 1, 0).bit_length()
    size = whole if implementation == "parallel" else min(whole, chunk)
    padding = ((0, 0), (0, -length % size), (0, 0), (0, 0))  # by log decays, keys and rates of zero
    cut = jax.tree.map(lambda x: chunks.split(jnp.pad(x, padding), size), tokens)
    state, y = chunks.scan(_chunk_step, state, cut)
    return chunks.join(y, length).astype(value.dtype), state


class _Tokens(NamedTuple):
    """What each token brings: the state loses `write` times what `take` . S is, with the sign in `take`."""

    receptance: Float[Array, "*l b t n h"]
    log_decay: Float[Array, "*l b t n h"]
    key: Float[Array, "*l b t n h"]
    value: Float[Array, "*l b t n v"]
    take: Float[Array, "*l b t n h"]
    write: Float[Array, "*l b t n h"]


def _token_step(S, token: _Tokens):
    taken = jnp.sum(token.take[..., None] * S, axis=-2, keepdims=True)
    S = jnp.exp(token.log_decay)[..., None] * S + token.write[..., None] * taken
    S = S + token.key[..., None] * token.value[..., None, :]
    return S, jnp.sum(token.receptance[..., None] * S, axis=-2)


def _chunk_step(S: Float[Array, "b n h v"], tokens: _Tokens):
    """The state after a chunk and its results, from the state before it."""
    receptance, log_decay, key, value, take, write = (x.swapaxes(1, 2).astype(S.dtype) for x in tokens)
    # what a token takes, it takes of the state of the token before: the next one's `take` reads beside `receptance`
    following = jnp.pad(take[..., 1:, :], ((0, 0), (0, 0), (0, 1), (0, 0)))
    since, until, products = _pairs(jnp.stack([receptance, following]), jnp.stack([write, key]), log_decay)
    read_taken, read_key, take_taken, take_key = products.reshape(-1, *products.shape[2:])
    later = partial(jnp.pad, pad_width=((0, 0), (0, 0), (1, 0), (0, 0)))

    before = later(jnp.exp(since)[..., :-1, :], constant_values=1)  # decays from before the chunk to the token before
    taken = (before * take) @ S + later(take_key[..., :-1, :]) @ value
    # the strict lower triangle alone is read, and ones on the diagonal
    taken = solve_triangular(-later(take_taken[..., :-1, :]), taken, lower=True, unit_diagonal=True)
    y = (jnp.exp(since) * receptance) @ S + read_taken @ taken + read_key @ value
    left = jnp.exp(until)
    S = jnp.exp(since[..., -1:, :]).mT * S + (left * write).mT @ taken + (left * key).mT @ value
    return S, y.swapaxes(1, 2)


def _pairs(query: Float[Array, "q b n c h"], key: Float[Array, "k b n c h"], log_decay: Float[Array, "b n c h"]):
    """The decayed products of each query and each key that is not behind it.

    Returns:
      [b n c h] log decays from before the first token to each, [b n c h] from each to the last, and [q k b n c c]
      query_i . exp(g_{j+1} + ... + g_i) key_j where j <= i, else 0.
    """
    alone = lambda x: x[..., :, None, :]  # blocks of one token [... l 1 h]
    query, key, since = alone(query)[:, None], alone(key)[None], alone(log_decay)
    until, products = jnp.zeros_like(since), jnp.sum(query * key, axis=-1, keepdims=True)
    while since.shape[-3] > 1:
        (query_a, query_b), (key_a, key_b), (since_a, since_b), (until_a, until_b), (products_a, products_b) = (
            (x[..., 0::2, :, :], x[..., 1::2, :, :]) for x in (query, key, since, until, products)
        )
        below = (jnp.exp(since_b) * query_b) @ (jnp.exp(until_a) * key_a).mT
        both = lambda a, b, axis=-2: jnp.concatenate([a, b], axis=axis)
        products = both(both(products_a, jnp.zeros_like(below), -1), both(below, products_b, -1))
        query, key = both(query_a, query_b), both(key_a, key_b)
        since, until = both(since_a, since_b + since_a[..., -1:, :]), both(until_a + since_b[..., -1:, :], until_b)
    return since[..., 0, :, :], until[..., 0, :, :], products[..., 0, :, :]
