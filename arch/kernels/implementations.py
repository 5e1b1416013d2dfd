"""Which of an operation's implementations suits a device: a kernel where it runs and takes the operands, else 'xla'."""

from collections.abc import Callable, Sequence

from arch.kernels import compat
from arch.kernels.devices import is_hopper, is_tpu

KERNELS = {"tpu": is_tpu, "hopper": lambda kind: is_hopper(kind) and compat.available()}
"""Whether kernels of this name run on devices of a kind. Whatever has another name runs on any."""


def suiting(options: Sequence[str], device_kind: str, misfit: Callable[[str], str]) -> str:
    """The first of these that is a kernel of the device and takes the operands; else 'xla'.

    Args:
      options: names of implementations.
      device_kind: of the devices that will run this, as in `mesh.devices.flat[0].device_kind`: 'cpu', 'NVIDIA H200' ...
      misfit: why a kernel does not take the operands; '' if it does.
    """
    kernels = (name for name in options if name in KERNELS and KERNELS[name](device_kind))
    return next((name for name in kernels if not misfit(name)), "xla")


def must_run(implementation: str, options: Sequence[str], device_kind: str) -> None:
    """Raises ValueError unless this is one of the options, and for devices of this kind."""
    if implementation not in options:
        raise ValueError(f"implementation={implementation!r} must be '' or one of {', '.join(options)}")
    if implementation in KERNELS and not KERNELS[implementation](device_kind):
        raise ValueError(f"implementation={implementation!r} is not for device_kind={device_kind!r}")
