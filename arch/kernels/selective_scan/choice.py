"""The selective scan, by the implementation that suits the device for which it is compiled.

'xla' is `arch.ops.selective_scan`, for any device; 'tpu' and 'hopper' are kernels, see `scan`.
"""

from typing import Literal, get_args

import jax.numpy as jnp

from arch.kernels import implementations
from arch.kernels.selective_scan import scan
from arch.ops import selective_scan as reference
from arch.typing import Array, Bool, Float

Implementation = Literal["xla", "tpu", "hopper"]


def choose(device_kind: str, dtype, states: int, *, length: int) -> Implementation:
    """The kernels of the device where they take these operands, else 'xla'; for one token, 'xla'.

    Args:
      device_kind: of the devices that will run this, as in `mesh.devices.flat[0].device_kind`: 'cpu', 'NVIDIA H200' ...
      dtype: of x.
      states: of a channel.
      length: tokens of a row.
    """
    misfit = lambda name: scan.KERNELS[name].misfit(jnp.dtype(dtype), states)
    return "xla" if length == 1 else implementations.suiting(get_args(Implementation), device_kind, misfit)


def selective_scan(
    x: Float[Array, "b t f"],
    delta: Float[Array, "b t f"],
    A: Float[Array, "f n"],
    B: Float[Array, "b t n"],
    C: Float[Array, "b t n"],
    D: Float[Array, "f"],
    *,
    device_kind: str,
    implementation: Implementation | Literal[""] = "",
    state: Float[Array, "b f n"] | None = None,
    reset: Bool[Array, "b t"] | None = None,
) -> tuple[Float[Array, "b t f"], Float[Array, "b f n"]]:
    """As `arch.ops.selective_scan.selective_scan`.

    Args:
      x: inputs.
      delta: step sizes, >= 0.
      A: rates, < 0 for a stable recurrence.
      B: what each token writes to the n states of a channel.
      C: what each token reads from them.
      D: weight of the skip connection.
      device_kind: see `choose`.
      implementation: that one or none; '' for what `choose` says.
      state: h before the first token; None is zeros.
      reset: true at the first token of a packed segment, whose incoming state is then zero.

    On a mesh, call it inside `shard_map` (`check_vma=False`).

    Raises:
      ValueError: the implementation named is not one of the above, not for this device, or not for these operands.
    """
    chosen = implementation or choose(device_kind, x.dtype, A.shape[1], length=x.shape[1])
    implementations.must_run(chosen, get_args(Implementation), device_kind)
    implementations.tell("selective scan", chosen)
    if chosen == "xla":
        return reference.selective_scan(x, delta, A, B, C, D, state=state, reset=reset)
    return scan.selective_scan(x, delta, A, B, C, D, kernels=chosen, state=state, reset=reset)
