"""WKV, by the implementation that suits the device for which it is compiled.

'xla' is `arch.ops.wkv`, for any device; 'tpu' and 'hopper' are kernels, see `average`.
"""

from typing import Literal, get_args

import jax.numpy as jnp

from arch.kernels import implementations
from arch.kernels.wkv import average
from arch.ops import wkv as reference
from arch.ops.wkv import State
from arch.typing import Array, Bool, Float

Implementation = Literal["xla", "tpu", "hopper"]


def choose(device_kind: str, dtype, *, length: int) -> Implementation:
    """The kernels of the device where they take these operands, else 'xla'; for one token, 'xla'.

    Args:
      device_kind: of the devices that will run this, as in `mesh.devices.flat[0].device_kind`: 'cpu', 'NVIDIA H200' ...
      dtype: of key and value.
      length: tokens of a row.
    """
    misfit = lambda name: average.KERNELS[name].misfit(jnp.dtype(dtype))
    return "xla" if length == 1 else implementations.suiting(get_args(Implementation), device_kind, misfit)


def wkv(
    key: Float[Array, "b t f"],
    value: Float[Array, "b t f"],
    decay: Float[Array, "f"],
    bonus: Float[Array, "f"],
    *,
    device_kind: str,
    implementation: Implementation | Literal[""] = "",
    state: State | None = None,
    reset: Bool[Array, "b t"] | None = None,
    valid: Bool[Array, "b t"] | None = None,
    chunk: int = 16,
) -> tuple[Float[Array, "b t f"], State]:
    """As `arch.ops.wkv.wkv`.

    Args:
      key: exponents k of any size.
      value: what is averaged.
      decay: w >= 0, by how much the exponents of past tokens fall a token.
      bonus: u, added to the present token's exponent.
      device_kind: see `choose`.
      implementation: that one or none; '' for what `choose` says.
      state: what the tokens before the first left; None is `empty`.
      reset: true at the first token of a packed segment, which sees none before it.
      valid: tokens that are not valid leave the state as it was; their results are of no meaning. None is all.
      chunk: of 'xla'; the kernels have chunks of their own.

    On a mesh, call it inside `shard_map` (`check_vma=False`).

    Raises:
      ValueError: the implementation named is not one of the above, not for this device, or not for these operands.
    """
    dtype = jnp.result_type(key, value)
    chosen = implementation or choose(device_kind, dtype, length=key.shape[1])
    implementations.must_run(chosen, get_args(Implementation), device_kind)
    implementations.tell("WKV", chosen)
    if chosen == "xla":
        return reference.wkv(key, value, decay, bonus, state=state, reset=reset, valid=valid, chunk=chunk)
    arrays = key.astype(dtype), value.astype(dtype), decay, bonus
    y, state = average.wkv(*arrays, kernels=chosen, state=state, reset=reset, valid=valid)
    return y.astype(value.dtype), state
