"""S4D: a linear recurrence with a few complex states a channel, the same at every token, hence a convolution too.

    h_t = exp(delta A) h_{t-1} + (exp(delta A) - 1) / A x_t        y_t = 2 Re(C . h_t) + D x_t
    y = K conv x + D x,     K_l = 2 Re(sum_n C_n (exp(delta A_n) - 1) / A_n exp(l delta A_n))

Source: Gu, Gupta, Goel & Re 2022, "On the Parameterization and Initialization of Diagonal State Space Models" (arXiv
2206.11893): the recurrence and its discretisation by a hold of order zero are its sec. 2 and 3.2 with B = 1, the filter
K its sec. 3.3, the initial A its sec. 4. The other half of the states are the conjugates, hence the 2 Re. All
arithmetic is in float32 and complex64 (float64 and complex128 if an argument is wider).
"""

import math
from functools import partial
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from arch.ops import chunks
from arch.ops.long_conv import long_conv
from arch.typing import Array, Bool, Complex, Float

Implementation = Literal["convolution", "chunked", "recurrent"]


def s4d(
    x: Float[Array, "b t f"],
    delta: Float[Array, "f"],
    A: Complex[Array, "f n"],
    C: Complex[Array, "f n"],
    D: Float[Array, "f"],
    *,
    state: Complex[Array, "b f n"] | None = None,
    reset: Bool[Array, "b t"] | None = None,
    valid: Bool[Array, "b t"] | None = None,
    chunk: int = 16,
    implementation: Implementation | None = None,
) -> tuple[Float[Array, "b t f"], Complex[Array, "b f n"]]:
    """Runs the recurrence over time from a given state.

    Args:
      x: inputs.
      delta: step size of each channel, > 0.
      A: rates, real parts < 0 for a stable recurrence; one of each pair of conjugates.
      C: what is read from the states.
      D: weight of the skip connection.
      state: h before the first token; None is zeros.
      reset: true at the first token of a packed segment, whose incoming state is then zero.
      valid: false for tokens that leave the state as it was, behind the others; what comes out at these has no meaning.
      chunk: tokens that are multiplied at a time, for 'chunked'.
      implementation: 'convolution' by transforms, of rows that start from nothing and are neither packed nor padded;
        'chunked' has matrix products within chunks and a scan over them; 'recurrent' goes token by token. None is
        'recurrent' for one token, else the first that can.

    Returns:
      y in x.dtype and the state after the last token.

    Raises:
      ValueError: chunk or implementation is not one of the above, or the convolution cannot.
    """
    if implementation not in (None, "convolution", "chunked", "recurrent"):
        raise ValueError(f"implementation={implementation!r} must be None, 'convolution', 'chunked' or 'recurrent'")
    whole = all(array is None for array in (state, reset, valid))
    if implementation is None:
        implementation = "recurrent" if x.shape[1] == 1 else "convolution" if whole else "chunked"
    if implementation == "convolution" and not whole:
        raise ValueError("implementation='convolution' must have neither state nor reset nor valid")
    dtype = jnp.promote_types(jnp.result_type(x, delta, A.real, C.real), jnp.float32)
    wide, exponent = x.astype(dtype), delta.astype(dtype)[:, None] * A.astype(jnp.result_type(dtype, A))
    system = _System(exponent, jnp.expm1(exponent) / A, C.astype(exponent.dtype))
    if implementation == "convolution":
        y, state = _convolution(wide, system)
    else:
        h = jnp.zeros((x.shape[0], *A.shape), exponent.dtype) if state is None else state.astype(exponent.dtype)
        rows = jnp.zeros(x.shape[:2], bool)
        tokens = _Tokens(wide, rows if reset is None else reset, ~rows if valid is None else valid)
        run = _recurrent if implementation == "recurrent" else partial(_chunked, chunk=chunk)
        y, state = run(tokens, system, h)
    return (y + D.astype(dtype) * wide).astype(x.dtype), state


def initial(kind: Literal["lin", "inv"], states: int) -> Complex[Array, "n"]:
    """[states / 2] the rates that channels start with, S4D-Lin or S4D-Inv (sec. 4.3 and 4.2 of the paper)."""
    n = jnp.arange(states // 2)
    frequency = math.pi * n if kind == "lin" else states / math.pi * (states / (2 * n + 1) - 1)
    return jax.lax.complex(jnp.full(n.shape, -0.5), frequency.astype(jnp.float32))


class _System(NamedTuple):
    """What the recurrence does at every token."""

    exponent: Complex[Array, "f n"]
    write: Complex[Array, "f n"]
    read: Complex[Array, "f n"]


class _Tokens(NamedTuple):
    """What each token brings; those that fill the last chunk are not valid."""

    x: Float[Array, "*l b c f"]
    reset: Bool[Array, "*l b c"]
    valid: Bool[Array, "*l b c"]


def _powers(system: _System, first: int, length: int, step: int = 1) -> Complex[Array, "t f n"]:
    return jnp.exp((first + step * jnp.arange(length))[:, None, None] * system.exponent)


def taps(system: _System, length: int) -> Float[Array, "t f"]:
    """The filter K: lag c i + j by the product of two powers, so that no array has both all lags and all states."""
    c = math.isqrt(max(length - 1, 0)) + 1
    far = _powers(system, 0, -(-length // c), c) * (system.read * system.write)
    return 2 * jnp.einsum("ifn,jfn->ijf", far, _powers(system, 0, c)).real.reshape(-1, far.shape[1])[:length]


def _convolution(x, system: _System):
    length = x.shape[1]
    c = math.isqrt(max(length - 1, 0)) + 1
    rows = jnp.pad(x, ((0, 0), (-length % c, 0), (0, 0)))
    rows = rows.reshape(x.shape[0], -1, c, x.shape[2]).astype(system.exponent.dtype)
    near = jnp.einsum("bijf,jfn->bifn", rows, _powers(system, 0, c)[::-1] * system.write)
    state = jnp.einsum("bifn,ifn->bfn", near, _powers(system, 0, rows.shape[1], c)[::-1])
    return long_conv(x, taps(system, length)), state


def _recurrent(tokens: _Tokens, system: _System, h):
    decay = jnp.exp(system.exponent)

    def step(h, token):
        kept = jnp.where(token.reset[:, None, None], 0, decay * h)
        h = jnp.where(token.valid[:, None, None], kept + system.write * token.x[..., None], h)
        return h, 2 * jnp.sum(system.read * h, axis=-1).real

    h, y = jax.lax.scan(step, h, jax.tree.map(lambda array: jnp.swapaxes(array, 0, 1), tokens))
    return jnp.swapaxes(y, 0, 1), h


def _chunked(tokens: _Tokens, system: _System, h, chunk: int):
    cut = jax.tree.map(lambda array: chunks.split(array, chunk), tokens)
    h, y = chunks.scan(partial(_chunk_step, system), h, cut)
    return chunks.join(y, tokens.x.shape[1]), h


def _chunk_step(system: _System, h: Complex[Array, "b f n"], tokens: _Tokens):
    """The state after a chunk and its results, from the state before it."""
    c, dtype = tokens.x.shape[1], system.exponent.dtype
    powers, segment = _powers(system, 0, c + 1), jnp.cumsum(tokens.reset, axis=1)
    lag = jnp.arange(c)[:, None] - jnp.arange(c)
    toeplitz = jnp.where((lag >= 0)[..., None], taps(system, c)[lag], 0)
    same = (segment[:, :, None] == segment[:, None, :]).astype(tokens.x.dtype)
    entered = jnp.einsum("bfn,ifn->bif", h, powers[1:] * system.read).real
    y = jnp.einsum("bij,ijf,bjf->bif", same, toeplitz, tokens.x) + 2 * jnp.where((segment == 0)[..., None], entered, 0)

    count = jnp.sum(tokens.valid, axis=1)  # the valid ones come first: what is written, from the last one on backwards
    from_last = count[:, None] - 1 - jnp.arange(c)
    last = jnp.take_along_axis(segment, jnp.maximum(count - 1, 0)[:, None], axis=1)
    written = jnp.where(((segment == last) & tokens.valid)[..., None], tokens.x, 0)
    written = jnp.take_along_axis(written, jnp.maximum(from_last, 0)[..., None], axis=1)
    written = jnp.where((from_last >= 0)[..., None], written, 0).astype(dtype)
    kept = jnp.where(((last == 0) | (count == 0)[:, None])[..., None], powers[count] * h, 0)
    return kept + jnp.einsum("bef,efn->bfn", written, powers[:c] * system.write), y
