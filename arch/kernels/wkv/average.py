"""WKV with gradients, by the kernels of one kind of device.

    a_t = e^{-w} a_{t-1} + e^{k_t} v_t,    b_t = e^{-w} b_{t-1} + e^{k_t}
    y_t = (a_{t-1} + e^{u + k_t} v_t) / z_t,    z_t = b_{t-1} + e^{u + k_t}

and backward, with alpha_t and beta_t the gradients by a_t and b_t, and r_t = dy_t / z_t,

    alpha_{t-1} = e^{-w} alpha_t + r_t,    beta_{t-1} = e^{-w} beta_t - r_t y_t
    dv_t = e^{k_t} alpha_t + e^{u + k_t} r_t,    dk_t = e^{k_t} (v_t alpha_t + beta_t) + e^{u + k_t} r_t (v_t - y_t).

Peng et al., RWKV, 2023, arXiv 2305.13048, appendix D: a and b are kept divided by e^m, m the greatest exponent so far.
So are alpha and beta, whose exponents are those of the 1 / z. The forward pass keeps the states that enter each chunk
of tokens, and the backward pass recomputes the others a chunk at a time.
"""

from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from arch.kernels.wkv import hopper, tpu
from arch.ops.wkv import State, empty
from arch.typing import Array, Bool, Float

KERNELS = {"tpu": tpu, "hopper": hopper}
Kernels = Literal["tpu", "hopper"]


class Tokens(NamedTuple):
    """What the kernels read, whole chunks of tokens; channels are as the kernels want them.

    Attributes:
      key: [b t *f].
      value: [b t *f].
      decay: float32 [*f].
      bonus: float32 [*f].
      flags: int32 [b t] 1 where a token is valid, plus 2 where it forgets what was before it.
    """

    key: Array
    value: Array
    decay: Array
    bonus: Array
    flags: Array


def wkv(
    key: Float[Array, "b t f"],
    value: Float[Array, "b t f"],
    decay: Float[Array, "f"],
    bonus: Float[Array, "f"],
    *,
    kernels: Kernels,
    state: State | None = None,
    reset: Bool[Array, "b t"] | None = None,
    valid: Bool[Array, "b t"] | None = None,
    launch: Any = None,
) -> tuple[Float[Array, "b t f"], State]:
    """(y in value.dtype, the state after the last token in float32), as `arch.ops.wkv.wkv`.

    Args:
      key: exponents k of any size.
      value: what is averaged, of key's dtype.
      decay: w >= 0.
      bonus: u.
      kernels: of which kind of device.
      state: what the tokens before the first left; None is `empty`.
      reset: true at the first token of a packed segment, which sees none before it.
      valid: tokens that are not valid leave the state as it was; their results are of no meaning, and have no gradient.
      launch: how the kernels are started, of their own kind; None as usual.

    Raises:
      ValueError: the kernels do not take these operands.
    """
    (b, t, f), module = key.shape, KERNELS[kernels]
    if key.dtype != value.dtype:
        raise ValueError(f"key.dtype={key.dtype} and value.dtype={value.dtype} must be the same")
    wrong = module.misfit(key.dtype)
    if wrong:
        raise ValueError(f"{wrong} for the kernels of kernels={kernels!r}")
    flags = jnp.ones((b, t), jnp.int32) if valid is None else valid.astype(jnp.int32)
    if reset is not None:
        flags += 2 * (reset & (flags > 0)).astype(jnp.int32)  # a token that is not valid changes nothing
    more = -t % module.chunk(t)
    long = lambda array: jnp.pad(array, ((0, 0), (0, more), *[(0, 0)] * (array.ndim - 2)))
    wide = lambda array: module.tiles(array.astype(jnp.float32), key.dtype)
    tokens = Tokens(
        *(long(module.tiles(array, key.dtype)) for array in (key, value)), wide(decay), wide(bonus), long(flags)
    )
    state = jax.tree.map(wide, empty(b, f) if state is None else state)
    y, last = _average(kernels, launch, tokens, state)
    flat = lambda array, ndim: array.reshape(*array.shape[:ndim], -1)[..., :f]
    return flat(y, 2)[:, :t], jax.tree.map(lambda array: flat(array, 1), last)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _average(kernels, launch, tokens: Tokens, state: State):
    y, last, _ = KERNELS[kernels].forward(launch, tokens, state)
    return y, last


def _forward(kernels, launch, tokens, state):
    y, last, entries = KERNELS[kernels].forward(launch, tokens, state)
    return (y, last), (tokens, entries, state, last.maximum)


def _backward(kernels, launch, residuals, gradients):
    tokens, entries, state, top = residuals
    dy, d_last = gradients
    d_tokens, numerator, denominator, exponent = KERNELS[kernels].backward(launch, tokens, entries, dy, d_last, -top)
    scale = jnp.exp(exponent + state.maximum)
    numerator, denominator = numerator * scale, denominator * scale
    d_maximum = state.numerator * numerator + state.denominator * denominator
    return d_tokens, State(numerator, denominator, d_maximum)


_average.defvjp(_forward, _backward)
