"""Which kernel computes attention among the tokens of a row that see all, what came before, or a window.

'cudnn' is NVIDIA's; 'blocks' are ours, over the blocks of such a pattern (`arch.kernels.block_attention`), for what
cuDNN lacks: packed documents, keys that nobody sees, ALiBi, a soft cap, sinks. 'xla' is what the caller has for any
device.
"""

from collections.abc import Set
from typing import Literal

from arch.kernels.block_attention import choice
from arch.kernels.devices import is_tpu
from arch.kernels.fused_attention import cudnn

Implementation = Literal["cudnn", "blocks", "xla"]
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
    if not cudnn.misfit(device_kind, dtype, channels, causal=causal, window=window, beside=beside):
        return "cudnn"
    ours = "xla" if is_tpu(device_kind) else choice.choose(device_kind, dtype, channels, (TILE, TILE))
    return "blocks" if ours != "xla" and beside <= OF_BLOCKS else "xla"
