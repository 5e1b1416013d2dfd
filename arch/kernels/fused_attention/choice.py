"""Which kernel computes attention among the tokens of a row that see all, what came before, or a window.

'cudnn' is NVIDIA's and 'splash' JAX's for TPUs; 'blocks' are ours, over the blocks of such a pattern
(`arch.kernels.block_attention`), for what these lack: keys that nobody sees, ALiBi, sinks; on GPUs packed documents and
a soft cap, on TPUs heads of 64 channels and attention that is not causal. 'xla' is what the caller has for any device.
"""

from collections.abc import Set
from typing import Literal

from arch.kernels import implementations
from arch.kernels.block_attention import choice
from arch.kernels.fused_attention import cudnn, splash

Implementation = Literal["cudnn", "splash", "blocks", "xla"]
TILE = 128
"""Queries and keys of a block."""
OF_BLOCKS = frozenset(("segments", "valid", "slopes", "soft cap", "sinks"))
"""What our kernels take beside query, key and value."""


def choose(
    device_kind: str, dtype, channels: tuple[int, int], *, causal: bool, window: int, beside: Set[str] = frozenset()
) -> Implementation:
    """The first of these that runs on the device and computes this.

    Args:
      device_kind: of the devices that will run this, as in `mesh.devices.flat[0].device_kind`: 'cpu', 'NVIDIA H200' ...
      dtype: of query, key and value.
      channels: of queries and keys, and of values.
      causal: a query sees only keys whose place is not after its own.
      window: a query sees only keys less than so many places away; 0 for all.
      beside: which of 'segments', 'valid', 'slopes', 'bias' (of logits, by anything but a slope), 'soft cap' and
        'sinks' there are.
    """
    if not implementations.allowed():
        return "xla"
    for name, module in (("cudnn", cudnn), ("splash", splash)):
        if not module.misfit(device_kind, dtype, channels, causal=causal, window=window, beside=beside):
            return name
    ours = choice.choose(device_kind, dtype, channels, (TILE, TILE))
    return "blocks" if ours != "xla" and beside <= OF_BLOCKS else "xla"
