"""Linear attention with a decay a head, with gradients, by the kernels of one kind of device.

    S_t = exp(g_t) S_{t-1} + k_t v_t^T        o_t = q_t S_t

With P_ij = (q_i . k_j) exp(g_{j+1} + ... + g_i) for j <= i, a chunk whose incoming state is S gives

    O = P V + e * (Q S),    S' = e_last S + (l * K)^T V,    e_i = exp(g_1 + ... + g_i),    l_j = exp(g_{j+1} + ...)

and, of the gradients dO and dS',

    dQ = (dO V^T * W) K + e * (dO S^T),    dV = P^T dO + l * (K dS'),    dS = e_last dS' + (e * Q)^T dO
    dK = (dO V^T * W)^T Q + l * (V dS'^T),    W_ij = exp(g_{j+1} + ... + g_i).

Yang et al., Gated Linear Attention Transformers with Hardware-Efficient Training, 2023, arXiv 2312.06635, sec. 3 and
4; Dao & Gu, Transformers are SSMs, 2024, arXiv 2405.21060, sec. 6. The backward pass goes from the last chunk to the
first, recomputing the states of a span of chunks at a time (Chen et al., 2016, arXiv 1604.06174).
"""

from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp

from arch.kernels.linear_attention import hopper, tpu
from arch.kernels.linear_attention.plan import Plan, Tokens
from arch.typing import Array, Bool, Float

KERNELS = {"tpu": tpu, "hopper": hopper}
Kernels = Literal["tpu", "hopper"]
FORGOTTEN = -60.0
"""A log decay below this forgets all: what it leaves, 1e-26, is nothing beside what a token brings."""


def decayed_attention(
    query: Float[Array, "b t k h"],
    key: Float[Array, "b t k h"],
    value: Float[Array, "b t n v"],
    log_decay: Float[Array, "#b #t #n"] | None = None,
    *,
    kernels: Kernels,
    state: Float[Array, "b n h v"] | None = None,
    reset: Bool[Array, "b t"] | None = None,
    valid: Bool[Array, "b t"] | None = None,
    launch: Any = None,
) -> tuple[Float[Array, "b t n v"], Float[Array, "b n h v"]]:
    """(o in value.dtype, the state after the last token in float32); see `arch.ops.linear_attention.recurrence`.

    Args:
      query: k groups, each shared by n / k heads in order.
      key: the same.
      value: of query's dtype.
      log_decay: g <= 0 a head; None for no decay.
      kernels: of which kind of device.
      state: S before the first token; None is zeros.
      reset: True at the first token of a packed segment, whose incoming state is then zero.
      valid: False for tokens that leave the state as it was; what comes out at these has no meaning.
      launch: how the kernels are started, of their own kind; None as usual.

    Raises:
      ValueError: n is not a multiple of k, or the kernels do not take these operands.
    """
    (b, length, k, h), (n, v), module = query.shape, value.shape[2:], KERNELS[kernels]
    if n % k:
        raise ValueError(f"num_heads={n} must be a multiple of num_groups={k}")
    if not query.dtype == key.dtype == value.dtype:
        dtypes = f"query.dtype={query.dtype}, key.dtype={key.dtype} and value.dtype={value.dtype}"
        raise ValueError(f"{dtypes} must be the same")
    wrong = module.misfit(query.dtype, (h, v))
    if wrong:
        raise ValueError(f"{wrong} for the kernels of kernels={kernels!r}")
    plan = module.plan(length, (h, v), n // k, launch)
    decay = jnp.zeros((b, length, n)) if log_decay is None else jnp.broadcast_to(log_decay, (b, length, n))
    decay = decay.astype(jnp.float32)
    forgets = decay < FORGOTTEN
    if reset is not None:
        forgets |= reset[..., None]
    if valid is not None:
        key = jnp.where(valid[..., None, None], key, 0)
        decay, forgets = jnp.where(valid[..., None], decay, 0.0), forgets & valid[..., None]
    swap = (lambda array: array.swapaxes(1, 2)) if module.HEADS_FIRST else (lambda array: array)
    arrays = (swap(_whole(array, plan)) for array in (query, key, value))
    total = _since_chunk_starts(jnp.where(forgets, 0.0, decay), plan)
    tokens = Tokens(*arrays, total, _since_chunk_starts(forgets.astype(jnp.int32), plan))
    state = jnp.zeros((b, n, h, v), jnp.float32) if state is None else state.astype(jnp.float32)
    out, state = _attend(kernels, plan, tokens, state)
    return swap(out)[:, :length], state


def _whole(array, plan):
    """[b plan.length ...] with zeros behind."""
    more = plan.length - array.shape[1]
    return jnp.pad(array, ((0, 0), (0, more), *[(0, 0)] * (array.ndim - 2))) if more else array


def _since_chunk_starts(x, plan):
    """[b n plan.length] sums over the tokens of its chunk up to each, of [b t n]."""
    x = _whole(x, plan).swapaxes(1, 2)
    return jnp.cumsum(x.reshape(*x.shape[:2], -1, plan.chunk), axis=-1).reshape(x.shape)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _attend(kernels: Kernels, plan: Plan, tokens: Tokens, state):
    """(out like value, last state)."""
    out, last, _ = KERNELS[kernels].forward(plan, tokens, state)
    return out, last


def _forward(kernels, plan, tokens, state):
    out, last, entries = KERNELS[kernels].forward(plan, tokens, state)
    return (out, last), (tokens, entries)


def _backward(kernels, plan, residuals, gradients):
    tokens, entries = residuals
    d_tokens, d_state = KERNELS[kernels].backward(plan, tokens, entries, *gradients)
    return d_tokens, d_state


_attend.defvjp(_forward, _backward)
