"""Which of an operation's implementations suits a device: a kernel where it runs and takes the operands, else 'xla'.

Each operation that has several tells which one it takes (`tell`), as it is traced; `told` collects what is told.
`without_kernels` has all of them take what runs on any device, to see whether a fault is a kernel's.
"""

import contextlib
import contextvars
from collections.abc import Callable, Iterator, Sequence

from arch.kernels import compat
from arch.kernels.devices import is_hopper, is_tpu

KERNELS = {"tpu": is_tpu, "hopper": lambda kind: is_hopper(kind) and compat.available()}
"""Whether kernels of this name run on devices of a kind. Whatever has another name runs on any."""


_WITHOUT: contextvars.ContextVar[bool] = contextvars.ContextVar("without", default=False)


@contextlib.contextmanager
def without_kernels(really: bool = True) -> Iterator[None]:
    """Within this, if really, no kernel suits any device: what is traced here takes none that is not named."""
    before = _WITHOUT.set(really)
    try:
        yield
    finally:
        _WITHOUT.reset(before)


def allowed() -> bool:
    """Whether kernels may be chosen here."""
    return not _WITHOUT.get()


def suiting(options: Sequence[str], device_kind: str, misfit: Callable[[str], str]) -> str:
    """The first of these that is a kernel of the device and takes the operands; else 'xla'.

    Args:
      options: names of implementations.
      device_kind: of the devices that will run this, as in `mesh.devices.flat[0].device_kind`: 'cpu', 'NVIDIA H200' ...
      misfit: why a kernel does not take the operands; '' if it does.
    """
    kernels = (name for name in options if allowed() and name in KERNELS and KERNELS[name](device_kind))
    return next((name for name in kernels if not misfit(name)), "xla")


def must_run(implementation: str, options: Sequence[str], device_kind: str) -> None:
    """Raises ValueError unless this is one of the options, and for devices of this kind."""
    if implementation not in options:
        raise ValueError(f"implementation={implementation!r} must be '' or one of {', '.join(options)}")
    if implementation in KERNELS and not KERNELS[implementation](device_kind):
        raise ValueError(f"implementation={implementation!r} is not for device_kind={device_kind!r}")


Told = dict[tuple[str, str, str], None]
"""(sublayer, operation, implementation), each once, in order."""
_TOLD: contextvars.ContextVar[Told | None] = contextvars.ContextVar("told", default=None)
_SUBLAYER: contextvars.ContextVar[str] = contextvars.ContextVar("sublayer", default="")


@contextlib.contextmanager
def told() -> Iterator[Told]:
    """Within this, `tell` fills what it gives."""
    found: Told = {}
    before = _TOLD.set(found)
    try:
        yield found
    finally:
        _TOLD.reset(before)


@contextlib.contextmanager
def within(sublayer: str) -> Iterator[None]:
    """Within this, what is told is of this sublayer."""
    before = _SUBLAYER.set(sublayer)
    try:
        yield
    finally:
        _SUBLAYER.reset(before)


def tell(operation: str, implementation: str) -> None:
    """Says which implementation an operation takes, to `told` if somebody collects."""
    found = _TOLD.get()
    if found is not None:
        found[_SUBLAYER.get(), operation, implementation] = None
