"""The selective scan with gradients, by the kernels of one kind of device.

    h_t = exp(delta_t A) h_{t-1} + delta_t B_t x_t        y_t = C_t . h_t + D x_t

and backward, with g_t the gradient by h_t and a_t = exp(delta_t A) the decay,

    g_t = C_t dy_t + a_{t+1} g_{t+1},    dB_t = sum_f g_t delta_t x_t,    dC_t = sum_f h_t dy_t,    w_t = B_t . g_t
    e_t = a_t g_t h_{t-1},    dx_t = delta_t w_t + D dy_t,    d delta_t = A . e_t + x_t w_t,    dA = sum_t delta_t e_t

Gu & Dao, Mamba, 2023, arXiv 2312.00752, sec. 3.3.2: the states of all tokens are never written to memory; the forward
pass keeps those that enter each chunk of tokens, and the backward pass recomputes the others a chunk at a time.
"""

from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from arch.kernels.selective_scan import hopper, tpu
from arch.typing import Array, Bool, Float

KERNELS = {"tpu": tpu, "hopper": hopper}
Kernels = Literal["tpu", "hopper"]


class Tokens(NamedTuple):
    """What the kernels read, whole chunks of tokens and whole blocks of channels.

    Attributes:
      x: [b t f].
      delta: float32 [b t f].
      A: float32 [n f].
      B: float32 [b t n].
      C: float32 [b t n].
      D: float32 [1 f].
      keep: float32 [b t 1] 0 where the incoming state is forgotten, else 1.
    """

    x: Array
    delta: Array
    A: Array
    B: Array
    C: Array
    D: Array
    keep: Array


def selective_scan(
    x: Float[Array, "b t f"],
    delta: Float[Array, "b t f"],
    A: Float[Array, "f n"],
    B: Float[Array, "b t n"],
    C: Float[Array, "b t n"],
    D: Float[Array, "f"],
    *,
    kernels: Kernels,
    state: Float[Array, "b f n"] | None = None,
    reset: Bool[Array, "b t"] | None = None,
    launch: Any = None,
) -> tuple[Float[Array, "b t f"], Float[Array, "b f n"]]:
    """(y in x.dtype, the state after the last token in float32), as `arch.ops.selective_scan.selective_scan`.

    Args:
      x: inputs.
      delta: step sizes, >= 0; all but x is float32 to the kernels.
      A: rates.
      B: what each token writes to the n states of a channel.
      C: what each token reads from them.
      D: weight of the skip connection.
      kernels: of which kind of device.
      state: h before the first token; None is zeros.
      reset: true at the first token of a packed segment, whose incoming state is then zero.
      launch: how the kernels are started, of their own kind; None as usual.

    Raises:
      ValueError: the kernels do not take these operands.
    """
    (b, t, f), n, module = x.shape, A.shape[1], KERNELS[kernels]
    wrong = module.misfit(x.dtype, n)
    if wrong:
        raise ValueError(f"{wrong} for the kernels of kernels={kernels!r}")
    chunk, channels, states = module.whole(t, f, n)
    wide = lambda array: array.astype(jnp.float32)
    forgets = jnp.zeros((b, t, 1)) if reset is None else wide(reset)[..., None]
    tokens = Tokens(
        _padded(x, t=chunk, f=channels),
        _padded(wide(delta), t=chunk, f=channels),
        _padded(wide(A).T, n=states, f=channels),
        _padded(wide(B), t=chunk, n=states),
        _padded(wide(C), t=chunk, n=states),
        _padded(wide(D)[None], one=1, f=channels),
        1.0 - _padded(forgets, t=chunk, one=1),
    )
    state = jnp.zeros((b, n, f)) if state is None else wide(state).swapaxes(1, 2)
    y, last = _scan(kernels, launch, tokens, _padded(state, n=states, f=channels))
    return y[:, :t, :f], last[:, :n, :f].swapaxes(1, 2)


def _padded(array, **multiples):
    """With zeros behind, up to these multiples of its last axes."""
    more = [(0, -size % multiple) for size, multiple in zip(array.shape[-len(multiples) :], multiples.values())]
    return jnp.pad(array, [(0, 0)] * (array.ndim - len(more)) + more)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _scan(kernels, launch, tokens: Tokens, state):
    y, last, _ = KERNELS[kernels].forward(launch, tokens, state)
    return y, last


def _forward(kernels, launch, tokens, state):
    y, last, entries = KERNELS[kernels].forward(launch, tokens, state)
    return (y, last), (tokens, entries)


def _backward(kernels, launch, residuals, gradients):
    tokens, entries = residuals
    d_tokens, d_state = KERNELS[kernels].backward(launch, tokens, entries, *gradients)
    dy, x = (array.astype(jnp.float32) for array in (gradients[0], tokens.x))
    d_skip = jnp.sum(dy * x, axis=(0, 1))[None]
    return d_tokens._replace(D=d_skip, keep=jnp.zeros_like(tokens.keep)), d_state


_scan.defvjp(_forward, _backward)
