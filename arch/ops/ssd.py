"""State space duality (SSD), the recurrence of Mamba-2: a state a head that decays by one number a token.

    S_t = exp(delta_t A) S_{t-1} + (delta_t x_t) B_t^T        y_t = S_t C_t + D x_t

which is attention without a softmax, whose weights a mask of decays multiplies:

    y_i = sum_{j <= i} exp(sum_{j < l <= i} delta_l A) (C_i . B_j) delta_j x_j + D x_i

Source: Dao & Gu 2024, "Transformers are SSMs: Generalized Models and Efficient Algorithms Through Structured State
Space Duality" (arXiv 2405.21060): the recurrence is its equation 2 with a scalar A, the quadratic form its sec. 5.1,
the chunks, each quadratic from the state before it, its sec. 6. All arithmetic is in float32 (float64 if an argument
is). RetNet (arXiv 2307.08621) is the same with A given and delta 1: `decaying_attention`.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from arch.ops import chunks
from arch.typing import Array, Bool, Float

Implementation = Literal["chunked", "recurrent", "quadratic"]
Step = Callable[..., tuple[Array, Array]]


def ssd(
    x: Float[Array, "b t n h"],
    delta: Float[Array, "b t n"],
    A: Float[Array, "n"],
    B: Float[Array, "b t k states"],
    C: Float[Array, "b t k states"],
    D: Float[Array, "n"],
    *,
    state: Float[Array, "b n h states"] | None = None,
    reset: Bool[Array, "b t"] | None = None,
    chunk: int = 64,
    implementation: Implementation | None = None,
) -> tuple[Float[Array, "b t n h"], Float[Array, "b n h states"]]:
    """Runs the recurrence over time from a given state.

    A token with delta 0 leaves the state as it was: mask invalid tokens so.

    Args:
      x: inputs of n heads.
      delta: step sizes, >= 0.
      A: rates, < 0 for a stable recurrence.
      B: what each token writes; k groups, each shared by n / k heads in order.
      C: what each token reads.
      D: weight of the skip connection.
      state: S before the first token; None is zeros.
      reset: true at the first token of a packed segment, whose incoming state is then zero.
      chunk: tokens that are multiplied at a time; the backward pass keeps one state for each chunk.
      implementation: see `decaying_attention`.

    Returns:
      y in x.dtype and the state after the last token, in float32 or wider.

    Raises:
      ValueError: chunk, implementation or the number of heads is not as said here.
    """
    dtype = jnp.promote_types(jnp.result_type(x, delta, A, B, C), jnp.float32)
    wide, delta = x.astype(dtype), delta.astype(dtype)
    y, state = decaying_attention(
        C, B, delta[..., None] * wide, delta * A.astype(dtype),
        state=state, reset=reset, chunk=chunk, implementation=implementation,
    )  # fmt: skip
    return (y + D.astype(dtype)[:, None] * wide).astype(x.dtype), state


def decaying_attention(
    query: Float[Array, "b t k states"],
    key: Float[Array, "b t k states"],
    value: Float[Array, "b t n h"],
    log_decay: Float[Array, "b t n"],
    *,
    state: Float[Array, "b n h states"] | None = None,
    reset: Bool[Array, "b t"] | None = None,
    chunk: int = 64,
    implementation: Implementation | None = None,
) -> tuple[Float[Array, "b t n h"], Float[Array, "b n h states"]]:
    """Causal linear attention whose state a head decays: S_t = exp(log_decay_t) S_{t-1} + v_t k_t^T, y_t = S_t q_t.

    Args:
      query: what each token reads; k groups, each shared by n / k heads in order.
      key: what each token writes.
      value: what is written there.
      log_decay: <= 0; a token with 0 here and a value of 0 leaves the state as it was.
      state: S before the first token; None is zeros.
      reset: true at the first token of a packed segment, whose incoming state is then zero.
      chunk: tokens that are multiplied at a time, for 'chunked'.
      implementation: 'chunked' has matrix products within chunks and a scan over them; 'quadratic' is one chunk;
        'recurrent' goes token by token. None is 'recurrent' for one token, else 'chunked'.

    Returns:
      y in value.dtype and the state after the last token, in float32 or wider.

    Raises:
      ValueError: chunk, implementation or the number of heads is not as said here.
    """
    how = dict(state=state, reset=reset, chunk=chunk, implementation=implementation)
    return run(query, key, value, log_decay, token_step=_token_step, chunk_step=chunk_step, **how)


def run(
    query: Float[Array, "b t k states"],
    key: Float[Array, "b t k states"],
    value: Float[Array, "b t n h"],
    log_decay: Float[Array, "b t n"],
    *beside: Float[Array, "b t n"],
    token_step: Step,
    chunk_step: Step,
    state: Float[Array, "b n h states"] | None,
    reset: Bool[Array, "b t"] | None,
    chunk: int,
    implementation: str | None,
) -> tuple[Float[Array, "b t n h"], Float[Array, "b n h states"]]:
    """A recurrence with this state, token by token or chunk by chunk: `decaying_attention`, but for its steps.

    Args:
      beside: more numbers of each token and head.
      token_step: (S, tokens, *beside) -> (S after them, y), of one token [b ...].
      chunk_step: the same of a chunk [b c ...].
    """
    (batch, length, groups, states), heads = query.shape, value.shape[2]
    if heads % groups:
        raise ValueError(f"num_heads={heads} must be a multiple of num_groups={groups}")
    if implementation not in (None, "chunked", "recurrent", "quadratic"):
        raise ValueError(f"implementation={implementation!r} must be None, 'chunked', 'recurrent' or 'quadratic'")
    dtype = jnp.promote_types(jnp.result_type(query, key, value, log_decay, *beside), jnp.float32)
    grouped = lambda array: array.astype(dtype).reshape(batch, length, groups, heads // groups, *array.shape[3:])
    tokens = Tokens(
        query.astype(dtype),
        key.astype(dtype),
        grouped(value),
        grouped(log_decay),
        jnp.zeros((batch, length), bool) if reset is None else reset,
    )
    inputs = tokens, *map(grouped, beside)
    shape = (batch, groups, heads // groups, value.shape[3], states)
    S = jnp.zeros(shape, dtype) if state is None else state.astype(dtype).reshape(shape)
    if implementation == "recurrent" or implementation is None and length == 1:
        over_time = jax.tree.map(lambda array: jnp.swapaxes(array, 0, 1), inputs)
        S, y = jax.lax.scan(lambda S, one: token_step(S, *one), S, over_time)
        y = jnp.swapaxes(y, 0, 1)
    else:
        size = max(1, length) if implementation == "quadratic" else chunk
        cut = jax.tree.map(lambda array: chunks.split(array, size), inputs)
        S, y = chunks.scan(lambda S, some: chunk_step(S, *some), S, cut)
        y = chunks.join(y, length)
    return y.reshape(value.shape).astype(value.dtype), S.reshape(batch, heads, value.shape[3], states)


class Tokens(NamedTuple):
    """What each token brings: n = k g heads in k groups of g."""

    query: Float[Array, "*l b c k states"]
    key: Float[Array, "*l b c k states"]
    value: Float[Array, "*l b c k g h"]
    log_decay: Float[Array, "*l b c k g"]
    reset: Bool[Array, "*l b c"]


def _token_step(S, token):
    decay = jnp.where(token.reset[:, None, None], 0, jnp.exp(token.log_decay))
    S = decay[..., None, None] * S + token.value[..., None] * token.key[:, :, None, None, :]
    return S, jnp.sum(S * token.query[:, :, None, None, :], axis=-1)


def chunk_step(S: Float[Array, "b k g h states"], tokens: Tokens):
    """The state after a chunk and its results, from the state before it: the quadratic form plus what enters."""
    within, entering, leaving = decays(tokens.log_decay, tokens.reset)
    scores = jnp.einsum("bikm,bjkm->bkij", tokens.query, tokens.key)
    y = jnp.einsum("bkgij,bjkgh->bikgh", scores[:, :, None] * within, tokens.value)
    y += jnp.einsum("bikm,bkghm->bikgh", tokens.query, S) * entering[..., None]
    written = jnp.einsum("bjkgh,bjkm->bkghm", tokens.value * leaving[..., None], tokens.key)
    return entering[:, -1, :, :, None, None] * S + written, y


def decays(log_decay: Float[Array, "b c k g"], reset: Bool[Array, "b c"]) -> tuple[Array, Array, Array]:
    """The decay from token j to i [b k g i j], from before the chunk to i [b i k g], from j to the end [b j k g].

    Each span is summed up for itself: differences of sums from the start have few digits behind strong decays.
    """
    size, by_head = log_decay.shape[1], jnp.moveaxis(log_decay, 1, -1)
    lower, segment = jnp.tril(jnp.ones((size, size), bool)), jnp.cumsum(reset, axis=1)
    behind = jnp.where(jnp.tril(lower, -1), by_head[..., None], 0)
    spans = jnp.matmul(lower.astype(behind.dtype), behind, precision="highest")
    visible = (segment[:, :, None] == segment[:, None, :]) & lower
    within = jnp.exp(jnp.where(visible[:, None, None], spans, -jnp.inf))
    entering = jnp.where((segment == 0)[..., None, None], jnp.exp(jnp.cumsum(log_decay, axis=1)), 0)
    return within, entering, jnp.moveaxis(within[..., -1, :], -1, 1)
