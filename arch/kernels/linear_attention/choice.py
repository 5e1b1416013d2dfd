"""Linear attention with decays, by the implementation that suits the device for which it is compiled.

'xla' is `arch.ops.linear_attention.recurrence`, or `arch.ops.ssd`, for any device; 'tpu' and 'hopper' are kernels, see
`decayed`.
"""

from typing import Literal, get_args

import jax.numpy as jnp

from arch.kernels import implementations
from arch.kernels.linear_attention import decayed
from arch.ops import ssd as state_space
from arch.ops.linear_attention import recurrence
from arch.typing import Array, Bool, Float

Implementation = Literal["xla", "tpu", "hopper"]


def choose(device_kind: str, dtype, channels: tuple[int, int], *, length: int, decays: int = 1) -> Implementation:
    """The kernels of the device where they take these operands, else 'xla'; for one token, 'xla'.

    Args:
      device_kind: of the devices that will run this, as in `mesh.devices.flat[0].device_kind`: 'cpu', 'NVIDIA H200' ...
      dtype: of query, key and value.
      channels: of a key, and of a value.
      length: tokens of a row.
      decays: of a head; the kernels have at most one.
    """
    misfit = lambda name: _misfit(name, dtype, channels, decays)
    return "xla" if length == 1 else implementations.suiting(get_args(Implementation), device_kind, misfit)


def linear_attention(
    query: Float[Array, "b t n h"],
    key: Float[Array, "b t n h"],
    value: Float[Array, "b t n v"],
    log_decay: Float[Array, "#b #t #n #h"] | None = None,
    *,
    device_kind: str,
    implementation: Implementation | Literal[""] = "",
    state: Float[Array, "b n h v"] | None = None,
    reset: Bool[Array, "b t"] | None = None,
    valid: Bool[Array, "b t"] | None = None,
    chunk: int = recurrence.CHUNK,
) -> tuple[Float[Array, "b t n v"], Float[Array, "b n h v"]]:
    """As `arch.ops.linear_attention.recurrence.linear_attention`.

    Args:
      query: what each token reads.
      key: where it writes.
      value: what it writes.
      log_decay: see there.
      device_kind: see `choose`.
      implementation: that one or none; '' for what `choose` says.
      state: see there, as the other arguments.
      reset: see there.
      valid: see there.
      chunk: of 'xla'; the kernels have chunks of their own.

    On a mesh, call it inside `shard_map` (`check_vma=False`).

    Raises:
      ValueError: the implementation named is not one of the above, not for this device, or not for these operands.
    """
    channels, decays = (query.shape[-1], value.shape[-1]), 1 if log_decay is None else log_decay.shape[-1]
    dtype = jnp.result_type(query, key, value)
    fit = dict(channels=channels, length=query.shape[1], decays=decays)
    chosen = _resolve(implementation, device_kind, dtype, **fit)
    given = dict(state=state, reset=reset, valid=valid)
    if chosen == "xla":
        return recurrence.linear_attention(query, key, value, log_decay, chunk=chunk, **given)
    decay = None if log_decay is None else log_decay[..., 0]
    arrays = (array.astype(dtype) for array in (query, key, value))
    out, state = decayed.decayed_attention(*arrays, decay, kernels=chosen, **given)
    return out.astype(value.dtype), state


def ssd(
    x: Float[Array, "b t n h"],
    delta: Float[Array, "b t n"],
    A: Float[Array, "n"],
    B: Float[Array, "b t k states"],
    C: Float[Array, "b t k states"],
    D: Float[Array, "n"],
    *,
    device_kind: str,
    implementation: Implementation | Literal[""] = "",
    state: Float[Array, "b n h states"] | None = None,
    reset: Bool[Array, "b t"] | None = None,
    chunk: int = 64,
) -> tuple[Float[Array, "b t n h"], Float[Array, "b n h states"]]:
    """As `arch.ops.ssd.ssd`; the kernels multiply in x.dtype, delta x too, and sum in float32.

    Args:
      x: inputs of n heads.
      delta: step sizes, >= 0.
      A: rates, < 0 for a stable recurrence.
      B: what each token writes; k groups, each shared by n / k heads in order.
      C: what each token reads.
      D: weight of the skip connection.
      device_kind: see `choose`.
      implementation: that one or none; '' for what `choose` says.
      state: before the first token; None is zeros.
      reset: true at the first token of a packed segment.
      chunk: of 'xla'; the kernels have chunks of their own.

    On a mesh, call it inside `shard_map` (`check_vma=False`).

    Raises:
      ValueError: the implementation named is not one of the above, not for this device, or not for these operands.
    """
    channels = B.shape[-1], x.shape[-1]
    chosen = _resolve(implementation, device_kind, x.dtype, channels=channels, length=x.shape[1])
    if chosen == "xla":
        return state_space.ssd(x, delta, A, B, C, D, state=state, reset=reset, chunk=chunk)
    wide, delta = x.astype(jnp.float32), delta.astype(jnp.float32)
    read, write, value = (array.astype(x.dtype) for array in (C, B, delta[..., None] * wide))
    state = None if state is None else state.swapaxes(2, 3)
    y, state = decayed.decayed_attention(read, write, value, delta * A, kernels=chosen, state=state, reset=reset)
    y = y.astype(jnp.float32) + D.astype(jnp.float32)[:, None] * wide
    return y.astype(x.dtype), state.swapaxes(2, 3)


def _resolve(implementation, device_kind, dtype, *, channels, length, decays=1) -> Implementation:
    chosen = implementation or choose(device_kind, dtype, channels, length=length, decays=decays)
    implementations.must_run(chosen, get_args(Implementation), device_kind)
    wrong = chosen != "xla" and _misfit(chosen, dtype, channels, decays)
    if wrong:
        raise ValueError(f"{wrong} for implementation={chosen!r}")
    implementations.tell("linear attention", chosen)
    return chosen


def _misfit(name, dtype, channels, decays):
    if decays > 1:
        return f"log_decay's channels={decays} must be 1"
    return decayed.KERNELS[name].misfit(jnp.dtype(dtype), channels)
