"""Whether the kernels for Hopper GPUs compute what the references do, values and gradients, on fresh random arrays.

Which operations have such kernels, arch/kernels says by itself: those whose `choice.Implementation` names one. Errors
are kept, not only whether they are small: of each result the greatest difference and the root of the mean square, both
relative to the greatest number of the exact result (1 at least, as sums of few terms may cancel). The first must be
below ROUNDINGS units: each result is made of a few roundings, of weights, of operands, of itself.
"""

import dataclasses
import importlib
import pkgutil
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding

from arch import kernels

HOPPER = {"hopper", "mosaic"}
ROUNDINGS = 8
SECONDS = 120


def operations() -> list[str]:
    """The folders of arch/kernels that have kernels for Hopper GPUs."""
    folders = [found.name for found in pkgutil.iter_modules(kernels.__path__) if found.ispkg]
    choices = {name: importlib.import_module(f"arch.kernels.{name}.choice") for name in folders}
    return [name for name in folders if HOPPER & set(get_args(choices[name].Implementation))]


@dataclasses.dataclass(frozen=True)
class Check:
    """A case of an operation.

    Attributes:
      operation: the file of `benchmarks/gpu/checks`.
      case: of its `CASES`.
    """

    operation: str
    case: Any

    @property
    def module(self):
        """The operation's file."""
        return importlib.import_module(f"benchmarks.gpu.checks.{self.operation}")

    def run(self, *, seed: int, **how) -> list[dict]:
        """A row for each result of the case with arrays of this seed; `how` goes to `found`."""
        case, start = dataclasses.replace(self.case, seed=seed), time.perf_counter()
        found = jax.block_until_ready(self.module.found(case, **how))
        seconds = time.perf_counter() - start
        with jax.default_device(jax.local_devices(backend="cpu")[0]):
            exact = self.module.exact(case)
        about = dict(operation=self.operation, case=str(self.case), dtype=self.case.dtype, seed=seed)
        about |= dict(seconds=round(seconds, 2))
        return [about | row for row in errors(found, exact, self.module.unit(case))]

    def lowered(self, where: NamedSharding) -> Iterator[tuple[str, str, Callable]]:
        """('', '', what lowers the case for the device)."""
        yield "", "", lambda: jax.jit(partial(self.module.found, self.case), out_shardings=where).lower()


def errors(found: dict, exact: dict, unit: float) -> list[dict]:
    """A row for each result; those that must not be finite are compared as they are."""
    rows = []
    names = {name: zip(jax.tree.leaves(found[name]), jax.tree.leaves(exact[name]), strict=True) for name in exact}
    for name, mine, right in ((name, *pair) for name, pairs in names.items() for pair in pairs):
        mine, right = (np.asarray(array).astype(np.float64) for array in (mine, right))
        finite = np.isfinite(right)
        same = bool(np.all((mine == right) | (np.isnan(mine) & np.isnan(right)) | finite))
        scale = max(1.0, np.abs(right[finite]).max(initial=0.0))
        far = np.abs(mine[finite] - right[finite]) / scale
        worst, usual = far.max(initial=0.0), np.sqrt(np.mean(np.square(far))) if far.size else 0.0
        row = dict(result=name, max_error=_short(worst), rms_error=_short(usual), allowed=_short(ROUNDINGS * unit))
        rows.append(row | dict(right=bool(same and worst <= ROUNDINGS * unit)))
    return rows


def _short(value: float) -> float | str:
    return float(f"{value:.3g}") if np.isfinite(value) else str(value)


def taken(operation: str) -> list:
    """The cases of an operation whose dtype its kernels take."""
    dtypes = importlib.import_module(f"arch.kernels.{operation}.hopper").DTYPES
    cases = importlib.import_module(f"benchmarks.gpu.checks.{operation}").CASES
    return [case for case in cases if jnp.dtype(case.dtype) in dtypes]


def _pieces() -> dict[str, Callable[[], Check]]:
    cases = [(operation, case) for operation in operations() for case in taken(operation)]
    return {f"{operation}: {case}": partial(Check, operation, case) for operation, case in cases}


PIECES = _pieces()
