"""The grouped matrix product, by the implementation that suits the device for which it is compiled.

    y_i = x_i W_{e(i)}

'blocks' and 'ragged_dot' are those of `arch.ops.grouped_matmul`, 'mosaic' is `hopper`; 'tokamax' and
'jax_linear_attention' are other people's (`peers`), to compare with.
"""

import functools
from typing import Literal, get_args

import jax.numpy as jnp

from arch.kernels import compat, implementations
from arch.kernels.devices import is_hopper, is_tpu
from arch.kernels.grouped_matmul import hopper, peers
from arch.ops import grouped_matmul as reference
from arch.ops.int8 import Int8
from arch.typing import Array, Float, Int

Implementation = Literal["blocks", "ragged_dot", "mosaic", "tokamax", "jax_linear_attention"]


def choose(device_kind: str, dtype, d: int, f: int) -> Implementation:
    """The best of ours: 'ragged_dot' on TPU, where it is native; 'mosaic' on Hopper; else 'blocks'.

    'mosaic' needs a JAX that has it, 16 bit numbers, and multiples of 64 channels.

    Args:
      device_kind: of the devices that will run this, as in `mesh.devices.flat[0].device_kind`: 'cpu', 'NVIDIA H200' ...
      dtype: of rows and weights.
      d: rows' channels.
      f: products' channels.
    """
    if is_tpu(device_kind):
        return "ragged_dot"
    fits = jnp.dtype(dtype) in hopper.DTYPES and d % hopper.MULTIPLE == f % hopper.MULTIPLE == 0
    runs = implementations.allowed() and is_hopper(device_kind) and compat.available()
    return "mosaic" if runs and fits else "blocks"


def grouped_matmul(
    x: Float[Array, "m d"],
    weight: Float[Array, "e d f"] | Int8,
    group_sizes: Int[Array, "e"],
    *,
    device_kind: str,
    implementation: Implementation | Literal[""] = "",
) -> Float[Array, "m f"]:
    """Multiplies each row by the weight of its group.

    Args:
      x: rows, those of expert 0 first, then those of expert 1, and so on.
      weight: one matrix an expert. Those in Int8 are multiplied by 'blocks', an expert's dequantised at a time, unless
        another one is named, which has all dequantised first.
      group_sizes: rows of each expert, zero allowed; their sum is at most m.
      device_kind: see `choose`.
      implementation: that one or none; '' for what `choose` says.

    On a mesh, call it inside `shard_map` (`check_vma=False`): the rows of a group must lie on one device.

    Returns:
      Products in x.dtype, summed in float32 or wider. Rows past the sum of group_sizes are zero.

    Raises:
      ValueError: the implementation named is not one of the above, not for this device, or not for these operands.
      ImportError: it is a package that is not installed.
    """
    if isinstance(weight, Int8):
        implementation = implementation or "blocks"
        weight = weight if implementation == "blocks" else weight.dequantized(x.dtype)
    chosen = implementation or choose(device_kind, jnp.result_type(x, weight), *weight.shape[1:])
    if chosen not in get_args(Implementation):
        raise ValueError(f"implementation={chosen!r} must be '' or one of {', '.join(get_args(Implementation))}")
    if chosen in ("mosaic", "jax_linear_attention") and not is_hopper(device_kind):
        raise ValueError(f"implementation={chosen!r} needs a Hopper GPU (H100, H200 ...); device_kind={device_kind!r}")
    implementations.tell("grouped matmul", chosen)
    functions = {
        "mosaic": hopper.grouped_matmul,
        "tokamax": functools.partial(peers.tokamax, device_kind=device_kind),
        "jax_linear_attention": peers.jax_linear_attention,
    }
    ours = functools.partial(reference.grouped_matmul, implementation=chosen)
    return functions.get(chosen, ours)(x, weight, group_sizes)
