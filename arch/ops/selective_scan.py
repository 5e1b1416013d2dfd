"""The selective scan of Mamba-1, a diagonal recurrence whose coefficients are chosen by each token.

    h_t = exp(delta_t A) h_{t-1} + delta_t B_t x_t        y_t = C_t . h_t + D x_t

Source: Gu & Dao 2023, "Mamba: Linear-Time Sequence Modeling with Selective State Spaces" (arXiv 2312.00752, sec. 3.2,
algorithm 2; the memory-saving backward pass is that of sec. 3.3.2). As in the released code, A is discretised exactly
and B by Euler's rule, delta B, where the paper's equation 4 has the exact integral.
"""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from arch.typing import Array, Bool, Float


def selective_scan(
    x: Float[Array, "b t f"],
    delta: Float[Array, "b t f"],
    A: Float[Array, "f n"],
    B: Float[Array, "b t n"],
    C: Float[Array, "b t n"],
    D: Float[Array, "f"],
    *,
    state: Float[Array, "b f n"] | None = None,
    reset: Bool[Array, "b t"] | None = None,
    chunk: int = 16,
    implementation: Literal["chunked", "reference"] | None = None,
) -> tuple[Float[Array, "b t f"], Float[Array, "b f n"]]:
    """Runs the recurrence over time from a given state.

    A token with delta 0 leaves the state as it was: mask invalid tokens so.

    Args:
        x: inputs, any float dtype.
        delta: step sizes, >= 0.
        A: rates, < 0 for a stable recurrence.
        B: what each token writes to the n states of a channel.
        C: what each token reads from them.
        D: weight of the skip connection.
        state: h before the first token; None is zeros.
        reset: true at the first token of a packed segment, whose incoming state is then zero.
        chunk: how many tokens the backward pass recomputes at a time; it keeps one state a chunk and, within one, a
            state a token.
        implementation: 'chunked' has that backward pass of its own; 'reference' is the equation as written. None is
            'chunked'.

    Returns:
        y in x.dtype and the state after the last token, in float32 (float64 if an argument is), as all arithmetic is.

    Raises:
        ValueError: chunk or implementation is not one of the above.
    """
    if chunk < 1:
        raise ValueError(f"chunk={chunk} must be a positive number of tokens")
    if implementation not in (None, "chunked", "reference"):
        raise ValueError(f"implementation={implementation!r} must be None, 'chunked' or 'reference'")
    if implementation == "reference":
        return selective_scan_reference(x, delta, A, B, C, D, state=state, reset=reset)
    tokens, A, h = _prepare(x, delta, A, B, C, state, reset)
    length = x.shape[1]
    y, h = _scan_chunks(jax.tree.map(lambda array: _to_chunks(array, chunk), tokens), A.T, h.swapaxes(1, 2))
    y = _time_first(y.reshape(-1, *y.shape[2:])[:length]) + D.astype(y.dtype) * x
    return y.astype(x.dtype), h.swapaxes(1, 2)


def selective_scan_reference(
    x: Float[Array, "b t f"],
    delta: Float[Array, "b t f"],
    A: Float[Array, "f n"],
    B: Float[Array, "b t n"],
    C: Float[Array, "b t n"],
    D: Float[Array, "f"],
    *,
    state: Float[Array, "b f n"] | None = None,
    reset: Bool[Array, "b t"] | None = None,
) -> tuple[Float[Array, "b t f"], Float[Array, "b f n"]]:
    """The equation as written, token by token; see `selective_scan`."""
    tokens, A, h = _prepare(x, delta, A, B, C, state, reset)

    def step(h, token):
        decay = jnp.exp(token.delta[:, :, None] * A)
        if token.reset is not None:
            decay = jnp.where(token.reset[:, None, None], 0, decay)
        h = decay * h + (token.delta * token.x)[:, :, None] * token.B[:, None, :]
        return h, jnp.sum(h * token.C[:, None, :], axis=-1)

    h, y = lax.scan(step, h, tokens)
    return (_time_first(y) + D.astype(y.dtype) * x).astype(x.dtype), h


class _Tokens(NamedTuple):
    """What each token brings, time (or chunk and time within it) first."""

    x: Float[Array, "*t b f"]
    delta: Float[Array, "*t b f"]
    B: Float[Array, "*t b n"]
    C: Float[Array, "*t b n"]
    reset: Bool[Array, "*t b"] | None


def _prepare(x, delta, A, B, C, state, reset) -> tuple[_Tokens, Float[Array, "f n"], Float[Array, "b f n"]]:
    """Casts to the accumulation dtype and moves time to the front."""
    dtype = jnp.promote_types(jnp.result_type(x, delta, A, B, C), jnp.float32)
    x, delta, B, C = (_time_first(array).astype(dtype) for array in (x, delta, B, C))
    tokens = _Tokens(x, delta, B, C, reset=None if reset is None else _time_first(reset))
    h = jnp.zeros((x.shape[1], *A.shape), dtype) if state is None else state.astype(dtype)
    return tokens, A.astype(dtype), h


def _time_first(array):
    return jnp.swapaxes(array, 0, 1)


def _to_chunks(array, chunk):
    """[t ...] -> [l c ...], l chunks of equal length c <= chunk; the tokens padded with have delta 0."""
    length = array.shape[0]
    num_chunks = -(-length // chunk)
    size = -(-length // num_chunks)
    padding = [(0, num_chunks * size - length)] + [(0, 0)] * (array.ndim - 1)
    return jnp.pad(array, padding).reshape(num_chunks, size, *array.shape[1:])


# The state is [b n f] from here on: with the wide axis last the products and the sum over n vectorise, which halves
# the forward time on a CPU (benchmarks/scan.py).


def _decay(token, A):
    decay = jnp.exp(token.delta[:, None, :] * A)
    return decay if token.reset is None else jnp.where(token.reset[:, None, None], 0, decay)


def _update(h, token, A):
    return _decay(token, A) * h + (token.delta * token.x)[:, None, :] * token.B[:, :, None]


def _read(weights: Float[Array, "b n"], h: Float[Array, "b n f"]) -> Float[Array, "b f"]:
    return jnp.sum(weights[:, :, None] * h, axis=1)


def _run(tokens, A, h):
    """Returns y [l c b f], the last state, and the state that enters each chunk [l b n f]."""

    def step(h, token):
        h = _update(h, token, A)
        return h, _read(token.C, h)

    def run_chunk(h, chunk):
        last, y = lax.scan(step, h, chunk)
        return last, (y, h)

    last, (y, entries) = lax.scan(run_chunk, h, tokens)
    return y, last, entries


@jax.custom_vjp
def _scan_chunks(tokens, A, h):
    y, last, _ = _run(tokens, A, h)
    return y, last


def _scan_chunks_forward(tokens, A, h):
    y, last, entries = _run(tokens, A, h)
    return (y, last), (tokens, A, entries)


def _scan_chunks_backward(residuals, cotangents):
    """Walks the chunks in reverse, recomputing the states of one at a time.

    With g_t the gradient of the loss by h_t and a_t the decay, g_t = C_t dy_t + a_{t+1} g_{t+1}. The sums over f
    for B and C are taken once a chunk, so that sharded channels cost one all-reduce a chunk and not one a token.
    """
    tokens, A, entries = residuals
    dy, dh = cotangents

    def step(carry, inputs):
        g, dA = carry
        token, dy, previous = inputs
        g = g + dy[:, None, :] * token.C[:, :, None]
        g_previous = g * _decay(token, A)
        d_exponent = g_previous * previous  # by delta_t A
        d_write = _read(token.B, g)  # by delta_t x_t
        d_delta = jnp.sum(d_exponent * A, axis=1) + d_write * token.x
        return (g_previous, dA + d_exponent * token.delta[:, None, :]), (d_write * token.delta, d_delta, g)

    def run_chunk(carry, inputs):
        chunk, dy, entry = inputs
        last, previous = lax.scan(lambda h, token: (_update(h, token, A), h), entry, chunk)
        carry, (dx, d_delta, g) = lax.scan(step, carry, (chunk, dy, previous), reverse=True)
        states = jnp.concatenate([previous[1:], last[None]])
        dB = jnp.einsum("cbnf,cbf->cbn", g, chunk.delta * chunk.x)
        dC = jnp.einsum("cbnf,cbf->cbn", states, dy)
        return carry, (dx, d_delta, dB, dC)

    (dh, dA), by_token = lax.scan(run_chunk, (dh, jnp.zeros_like(dh)), (tokens, dy, entries), reverse=True)
    return _Tokens(*by_token, reset=None), jnp.sum(dA, axis=0), dh


_scan_chunks.defvjp(_scan_chunks_forward, _scan_chunks_backward)
