"""A linear recurrence of each channel by itself: h_t = a_t h_{t-1} + x_t.

Source: the scan of Martin & Cundy 2017, "Parallelizing Linear Recurrent Neural Nets Over Sequence Length" (arXiv
1709.04057, sec. 2.2): two spans of tokens, one behind the other, are together one such step, so that spans may be
combined in a tree. The backward pass is the same recurrence, run from the end: with g_t the gradient of the loss by
h_t, g_t = dh_t + a_{t+1} g_{t+1}; it needs a and h, and nothing else is kept.
"""

from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp

from arch.ops import chunks
from arch.typing import Array, Float

Implementation = Literal["chunked", "parallel", "recurrent"]


def linear_recurrence(
    decay: Float[Array, "b t f"],
    x: Float[Array, "b t f"],
    *,
    state: Float[Array, "b f"] | None = None,
    chunk: int = 16,
    implementation: Implementation | None = None,
) -> tuple[Float[Array, "b t f"], Float[Array, "b f"]]:
    """Runs the recurrence over time from a given state.

    Args:
      decay: a; 0 forgets what was before (the first token of a segment), 1 with an x of 0 leaves the state as it was.
      x: what is added.
      state: h before the first token; None is zeros.
      chunk: tokens that are combined at a time.
      implementation: 'recurrent' goes token by token; 'parallel' combines spans in a tree; 'chunked' does that within
        chunks, one after the other. None is 'recurrent' for one token, else 'chunked'.

    Returns:
      h of all tokens and of the last one, in float32 (float64 if an argument is), as all arithmetic is.

    Raises:
      ValueError: chunk or implementation is not one of the above.
    """
    if implementation not in (None, "chunked", "parallel", "recurrent"):
        raise ValueError(f"implementation={implementation!r} must be None, 'chunked', 'parallel' or 'recurrent'")
    batch, length, channels = x.shape
    dtype = jnp.promote_types(jnp.result_type(decay, x), jnp.float32)
    h = jnp.zeros((batch, channels), dtype) if state is None else state.astype(dtype)
    if implementation is None:
        implementation = "recurrent" if length == 1 else "chunked"
    size = {"recurrent": 1, "parallel": max(1, length), "chunked": chunk}[implementation]
    out = _recurrence(size, decay.astype(dtype), x.astype(dtype), h)
    return out, out[:, -1]


def _join(one, two):
    """(product of decays, what is left of all inputs) of two spans of tokens, one behind the other."""
    return one[0] * two[0], two[0] * one[1] + two[1]


def _run(size, decay, x, h):
    def step(h, tokens):
        falls, sums = jax.lax.associative_scan(_join, tokens, axis=1)
        out = sums + falls * h[:, None]
        return out[:, -1], out

    cut = partial(chunks.split, chunk=size)
    return chunks.join(jax.lax.scan(step, h, (cut(decay, fill=1), cut(x)))[1], x.shape[1])


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _recurrence(size, decay, x, h):
    return _run(size, decay, x, h)


def _forward(size, decay, x, h):
    out = _run(size, decay, x, h)
    return out, (decay, h, out)


def _backward(size, residuals, d_out):
    decay, h, out = residuals
    following = jnp.concatenate([decay[:, 1:], jnp.ones_like(decay[:, :1])], axis=1)
    g = _run(size, following[:, ::-1], d_out[:, ::-1], jnp.zeros_like(h))[:, ::-1]
    previous = jnp.concatenate([h[:, None], out[:, :-1]], axis=1)
    return g * previous, g, decay[:, 0] * g[:, 0]


_recurrence.defvjp(_forward, _backward)
