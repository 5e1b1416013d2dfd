"""Linear attention with decays: one matrix a head is all that remains of the past.

    S_t = diag(exp(g_t)) S_{t-1} + k_t v_t^T        o_t = q_t S_t

with a log decay g_t <= 0 a head, a channel, or none. Written out,

    o_i = sum_{j <= i} (q_i . exp(g_{j+1} + ... + g_i) k_j) v_j,

which chunks of tokens compute by matrix products: what entered a chunk through S, the rest by doubling. Two blocks A, B
of tokens side by side are joined by the products of B's queries, decayed since B's start, and A's keys, decayed to A's
end. So every exponent is a sum of log decays and never a difference of such sums: nothing overflows, and nothing
cancels however strong the decays. A reset is the decay zero.

Katharopoulos et al., Transformers are RNNs, 2020, arXiv 2006.16236, sec. 3.3 (the recurrence); Yang et al., Gated
Linear Attention Transformers with Hardware-Efficient Training, 2023, arXiv 2312.06635, sec. 4.2 and 4.3 (decays a
channel, in chunks; their second level of chunks is replaced by doubling).
"""

from functools import partial
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from arch.ops import chunks
from arch.typing import Array, Bool, Float

Implementation = Literal["chunked", "parallel", "recurrent"]

CHUNK = 64
BLOCK = {"head": 16, "channel": 1}
"""Tokens whose pairs are decayed one by one, before blocks are joined."""
RESET = -1e30
"""A log decay whose exponential is zero, and which may be multiplied by zero."""


def linear_attention(
    query: Float[Array, "b t n h"],
    key: Float[Array, "b t n h"],
    value: Float[Array, "b t n v"],
    log_decay: Float[Array, "#b #t #n #h"] | None = None,
    *,
    state: Float[Array, "b n h v"] | None = None,
    reset: Bool[Array, "b t"] | None = None,
    valid: Bool[Array, "b t"] | None = None,
    chunk: int = CHUNK,
    implementation: Implementation | None = None,
) -> tuple[Float[Array, "b t n v"], Float[Array, "b n h v"]]:
    """Runs the recurrence over time from a given state.

    Args:
      query: what each token reads.
      key: where it writes.
      value: what it writes.
      log_decay: g <= 0, `-inf` to forget all; its last axis is 1 for a decay a head; None for no decay.
      state: S before the first token; None is zeros.
      reset: True at the first token of a packed segment, whose incoming state is then zero.
      valid: False for tokens that leave the state as it was; what comes out at these has no meaning.
      chunk: tokens that are multiplied at a time, a power of two; the backward pass keeps one state a chunk.
      implementation: 'chunked'; 'parallel' is one chunk, quadratic in t; 'recurrent' is the equation as written, token
        by token. None is 'chunked'.

    Returns:
      o in value.dtype and the state after the last token, in float32 (float64 if an argument is), as all arithmetic is.

    Raises:
      ValueError: chunk or implementation is not one of the above.
    """
    check_chunk(chunk)
    if implementation not in (None, "chunked", "parallel", "recurrent"):
        raise ValueError(f"implementation={implementation!r} must be None, 'chunked', 'parallel' or 'recurrent'")
    given = [x for x in (query, key, value, log_decay) if x is not None]
    dtype = jnp.promote_types(jnp.result_type(*given), jnp.float32)
    tokens = _prepare(query, key, value, log_decay, reset, valid, dtype)
    length, shape = query.shape[1], (query.shape[0], *query.shape[2:], value.shape[-1])
    state = jnp.zeros(shape, dtype) if state is None else state.astype(dtype)
    if implementation == "recurrent":
        out, state = _recurrent(tokens, state)
    else:
        whole = 1 << length.bit_length()
        out, state = _chunked(tokens, state, _size(length, whole if implementation == "parallel" else chunk))
    return out.astype(value.dtype), state


def check_chunk(chunk: int) -> None:
    """Raises ValueError unless it is a power of two."""
    if chunk < 1 or chunk & (chunk - 1):
        raise ValueError(f"chunk={chunk} must be a power of two")


def products(
    length: int,
    channels: int,
    values: int,
    *,
    decay: Literal["none", "head", "channel"] = "none",
    chunk: int = CHUNK,
) -> tuple[int, int]:
    """(required by the recurrence, executed in chunks) multiply-adds of one head over a row of so many tokens.

    Nothing is written to the state behind the last chunk, which a row in training has no use for.

    Args:
      length: t.
      channels: of a query and a key, h.
      values: channels of a value, v.
      decay: what decays by itself.
      chunk: tokens that are multiplied at a time.
    """
    size = _size(length, chunk)
    count, block = -(-length // size), min(size, BLOCK.get(decay, size))
    pairs = block * size + (size - block) * size // 2  # within blocks, whole squares; between them, half of a square
    executed = count * pairs * (channels + values) + (2 * count - 1) * size * channels * values
    return 2 * length * channels * values, executed


def _size(length: int, chunk: int) -> int:
    """Tokens of a chunk: a power of two."""
    return min(1 << max(length - 1, 0).bit_length(), chunk)


class _Tokens(NamedTuple):
    """What each token brings."""

    query: Float[Array, "*l b t n h"]
    key: Float[Array, "*l b t n h"]
    value: Float[Array, "*l b t n v"]
    log_decay: Float[Array, "*l #b t #n #h"] | None


def _prepare(query, key, value, log_decay, reset, valid, dtype) -> _Tokens:
    """Writes resets and invalid tokens as decays and keys of zero."""
    if log_decay is not None:
        shape = (log_decay.shape[0], query.shape[1], *log_decay.shape[2:])
        log_decay = jnp.broadcast_to(jnp.maximum(log_decay.astype(dtype), RESET), shape)
    if reset is not None:
        log_decay = jnp.where(reset[..., None, None], RESET, 0 if log_decay is None else log_decay).astype(dtype)
    if valid is not None:
        key = jnp.where(valid[..., None, None], key, 0)
        log_decay = None if log_decay is None else jnp.where(valid[..., None, None], log_decay, 0)
    return _Tokens(query, key, value, log_decay)


def _recurrent(tokens: _Tokens, state):
    def step(state, token):
        if token.log_decay is not None:
            state = jnp.exp(token.log_decay)[..., None] * state
        state = state + token.key[..., None] * token.value[..., None, :]
        return state, jnp.sum(token.query[..., None] * state, axis=-2)

    state, out = jax.lax.scan(step, state, jax.tree.map(lambda x: x.swapaxes(0, 1).astype(state.dtype), tokens))
    return out.swapaxes(0, 1), state


def _chunked(tokens: _Tokens, state, size: int):
    length = tokens.query.shape[1]
    padding = ((0, 0), (0, -length % size), (0, 0), (0, 0))  # by keys and log decays of zero
    state, out = chunks.scan(_chunk, state, jax.tree.map(lambda x: chunks.split(jnp.pad(x, padding), size), tokens))
    return chunks.join(out, length), state


def _chunk(state: Float[Array, "b n h v"], tokens: _Tokens):
    """The state after a chunk and its results, from the state before it."""
    query, key, value, log_decay = jax.tree.map(lambda x: x.swapaxes(1, 2).astype(state.dtype), tokens)
    if log_decay is None:
        out = jnp.tril(query @ key.mT) @ value + query @ state
        return state + key.mT @ value, out.swapaxes(1, 2)
    blocks = _blocks(query, key, value, log_decay)
    while blocks.since.shape[-3] > 1:
        blocks = _doubled(blocks)
    out, since, until = (x[..., 0, :, :] for x in (blocks.out, blocks.since, blocks.until))
    out += (jnp.exp(since) * query) @ state
    state = jnp.exp(since[..., -1:, :]).mT * state + (jnp.exp(until) * key).mT @ value
    return state, out.swapaxes(1, 2)


class _Blocks(NamedTuple):
    """A chunk as l blocks of c tokens, each block as if it were alone.

    Attributes:
      query, key, value: as they came.
      out: results of the block's tokens among themselves.
      since: the log decay of a state from the block's start to each token, its own included.
      until: that of a state with this token to the block's end.
    """

    query: Float[Array, "b n l c h"]
    key: Float[Array, "b n l c h"]
    value: Float[Array, "b n l c v"]
    out: Float[Array, "b n l c v"]
    since: Float[Array, "#b #n l c #h"]
    until: Float[Array, "#b #n l c #h"]


def _blocks(query, key, value, log_decay) -> _Blocks:
    """The least blocks, in which the decay of each pair of tokens is computed for itself."""
    size = min(query.shape[-2], BLOCK["head" if log_decay.shape[-1] == 1 else "channel"])
    query, key, value, log_decay = (
        x.reshape(*x.shape[:-2], -1, size, x.shape[-1]) for x in (query, key, value, log_decay)
    )
    if size == 1:
        out = jnp.sum(query * key, axis=-1, keepdims=True) * value
        return _Blocks(query, key, value, out, log_decay, jnp.zeros_like(log_decay))
    token, other, last = np.ogrid[:size, :size, :size]
    total = partial(jnp.einsum, precision="highest")
    between = jnp.asarray((other < token) & (token <= last), log_decay.dtype)  # [token other last]
    weights = jnp.tril(query @ key.mT * jnp.exp(total("...t,tjl->...lj", log_decay[..., 0], between)))
    since = total("...tx,tl->...lx", log_decay, jnp.asarray((token <= last)[:, 0], log_decay.dtype))
    until = total("...tx,tj->...jx", log_decay, jnp.asarray((other < token)[..., 0], log_decay.dtype))
    return _Blocks(query, key, value, weights @ value, since, until)


def _doubled(blocks: _Blocks) -> _Blocks:
    """Half as many blocks of twice as many tokens."""
    a, b = (_Blocks(*(x[..., half::2, :, :] for x in blocks)) for half in (0, 1))
    weights = (jnp.exp(b.since) * b.query) @ (jnp.exp(a.until) * a.key).mT
    query, key, value = (x.reshape(*x.shape[:2], -1, 2 * x.shape[-2], x.shape[-1]) for x in blocks[:3])
    both = lambda first, second: jnp.concatenate([first, second], axis=-2)
    since = both(a.since, b.since + a.since[..., -1:, :])
    until = both(a.until + b.since[..., -1:, :], b.until)
    return _Blocks(query, key, value, both(a.out, b.out + weights @ a.value), since, until)
