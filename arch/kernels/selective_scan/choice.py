"""The selective scan, by the implementation that suits the device for which it is compiled.

'xla' is `arch.ops.selective_scan`, for any device; 'tpu' is a kernel, see `scan`.
"""

from typing import Literal, get_args

import jax.numpy as jnp

from arch.kernels.devices import is_tpu
from arch.kernels.selective_scan import scan
from arch.ops import selective_scan as reference
from arch.typing import Array, Bool, Float

Implementation = Literal["xla", "tpu"]
RUNS_ON = {"tpu": is_tpu}


def choose(device_kind: str, dtype, states: int, *, length: int) -> Implementation:
    """The kernels of the device where they take these operands, else 'xla'; for one token, 'xla'.

    Args:
      device_kind: of the devices that will run this, as in `mesh.devices.flat[0].device_kind`: 'cpu', 'NVIDIA H200' ...
      dtype: of x.
      states: of a channel.
      length: tokens of a row.
    """
    for name, runs_on in RUNS_ON.items():
        if runs_on(device_kind) and not scan.KERNELS[name].misfit(jnp.dtype(dtype), states) and length > 1:
            return name
    return "xla"


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
    if chosen not in get_args(Implementation):
        raise ValueError(f"implementation={chosen!r} must be '' or one of {', '.join(get_args(Implementation))}")
    if chosen == "xla":
        return reference.selective_scan(x, delta, A, B, C, D, state=state, reset=reset)
    if not RUNS_ON[chosen](device_kind):
        raise ValueError(f"implementation={chosen!r} is not for device_kind={device_kind!r}")
    return scan.selective_scan(x, delta, A, B, C, D, kernels=chosen, state=state, reset=reset)
