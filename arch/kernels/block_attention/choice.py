"""Attention over a block map, by the implementation that suits the device for which it is compiled.

'xla' is `arch.ops.sparse_attention`, for any device; 'tpu' and 'hopper' are kernels, see `flash`.
"""

from typing import Literal, get_args

import jax.numpy as jnp

from arch.kernels import implementations
from arch.kernels.block_attention import flash
from arch.ops.patterns.blocks import BlockMap
from arch.ops.sparse_attention import sparse_attend
from arch.typing import Array, Bool, Float, Int

Implementation = Literal["xla", "tpu", "hopper"]


def choose(device_kind: str, dtype, channels: tuple[int, int], block: tuple[int, int]) -> Implementation:
    """The kernels of the device where they take these operands, else 'xla'.

    Args:
      device_kind: of the devices that will run this, as in `mesh.devices.flat[0].device_kind`: 'cpu', 'NVIDIA H200' ...
      dtype: of query, key and value.
      channels: of queries and keys, and of values.
      block: (bq, bk) tokens of the map.
    """
    misfit = lambda name: flash.KERNELS[name].misfit(jnp.dtype(dtype), channels, block)
    return implementations.suiting(get_args(Implementation), device_kind, misfit)


def attend(
    query: Float[Array, "b t n h"],
    key: Float[Array, "b s k h"],
    value: Float[Array, "b s k v"],
    block_map: BlockMap,
    *,
    device_kind: str,
    implementation: Implementation | Literal[""] = "",
    query_segments: Int[Array, "b t"] | None = None,
    key_segments: Int[Array, "b s"] | None = None,
    valid: Bool[Array, "b s"] | None = None,
    slopes: Float[Array, "n"] | None = None,
    sinks: Float[Array, "n"] | None = None,
    scale: float | None = None,
    soft_cap: float = 0.0,
) -> tuple[Float[Array, "b t n v"], Float[Array, "b n t"]]:
    """(result in query's dtype, logsumexp in float32); see `flash.attend` for the arguments that are not here.

    Args:
      query: [b t n h].
      key: [b s k h].
      value: [b s k v].
      block_map: which keys each query sees.
      device_kind: see `choose`.
      implementation: that one or none; '' for what `choose` says.

    Raises:
      ValueError: the implementation named is not one of the above, not for this device, or not for these operands.
    """
    channels = query.shape[-1], value.shape[-1]
    chosen = implementation or choose(device_kind, query.dtype, channels, block_map.block)
    implementations.must_run(chosen, get_args(Implementation), device_kind)
    implementations.tell("attention over blocks", chosen)
    given = dict(query_segments=query_segments, key_segments=key_segments, valid=valid)
    given |= dict(sinks=sinks, scale=scale, soft_cap=soft_cap)
    if chosen != "xla":
        return flash.attend(query, key, value, block_map, kernels=chosen, slopes=slopes, **given)
    bias = {} if slopes is None else dict(bias=_by_distance, bias_operands=slopes)
    return sparse_attend(query, key, value, block_map, **bias, **given)


def _by_distance(slopes, query_place, key_place):
    """ALiBi's, [c n t s]."""
    distance = jnp.abs(query_place[:, None, :, None] - key_place[:, None, None, :]).astype(jnp.float32)
    return -slopes[:, None, None] * distance
