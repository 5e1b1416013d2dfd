"""The interpreter of Hopper kernels on CPU, as the tests run it: it reports each access that nothing orders."""

from typing import Any

from arch.kernels import compat

COPIES = 64
"""At a time, more than there are: one that takes up another's clock would pass for ordered behind it."""


def watching() -> Any:
    """What Pallas takes as `interpret`."""
    _, plgpu = compat.modules()
    return plgpu.InterpretGPUParams(detect_races=True, num_tma_threads_per_device=COPIES)
