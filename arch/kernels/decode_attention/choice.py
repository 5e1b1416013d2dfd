"""Attention of a few new tokens to a cache, by the implementation that suits the device for which it is compiled.

'xla' is `arch.ops.cache_attention`, for any device; 'tpu' and 'hopper' are kernels, see `decode`.
"""

from typing import Literal, get_args

from arch.kernels import implementations
from arch.kernels.decode_attention import decode
from arch.ops.cache_attention import cache_attend
from arch.typing import Array, Float, Int

Implementation = Literal["xla", "tpu", "hopper"]


def choose(device_kind: str, dtype, channels: tuple[int, int], *, rows: int, slots: int) -> Implementation:
    """The kernels of the device where they take these operands, else 'xla'.

    Args:
      device_kind: of the devices that will run this, as in `mesh.devices.flat[0].device_kind`: 'cpu', 'NVIDIA H200' ...
      dtype: of query, key and value.
      channels: of keys, and of values.
      rows: queries of a key-value head, t n / k.
      slots: of the cache.
    """
    misfit = lambda name: decode.misfit(name, dtype, channels, rows, slots)
    return implementations.suiting(get_args(Implementation), device_kind, misfit)


def attend(
    query: Float[Array, "b t n h"],
    key: Float[Array, "b k s h"],
    value: Float[Array, "b k s v"],
    place: Int[Array, "b t"],
    *,
    device_kind: str,
    implementation: Implementation | Literal[""] = "",
    window: int = 0,
    sinks: Float[Array, "n"] | None = None,
    scale: float | None = None,
    soft_cap: float = 0.0,
) -> Float[Array, "b t n v"]:
    """The result in query's dtype; see `arch.ops.cache_attention.cache_attend` for the arguments that are not here.

    Args:
      query: [b t n h].
      key: [b k s h].
      value: [b k s v].
      place: [b t] the slot of each query's own key.
      device_kind: see `choose`.
      implementation: that one or none; '' for what `choose` says.

    Raises:
      ValueError: the implementation named is not one of the above, not for this device, or not for these operands.
    """
    (_, t, n, h), (_, k, s, v) = query.shape, value.shape
    one_type = query.dtype == key.dtype == value.dtype
    fitting = choose(device_kind, query.dtype, (h, v), rows=t * n // k, slots=s) if one_type else "xla"
    chosen = implementation or fitting
    implementations.must_run(chosen, get_args(Implementation), device_kind)
    implementations.tell("attention to a cache", chosen)
    given = dict(window=window, sinks=sinks, scale=scale, soft_cap=soft_cap)
    if chosen == "xla":
        return cache_attend(query, key, value, place, **given)
    return decode.attend(query, key, value, place, kernels=chosen, **given)
