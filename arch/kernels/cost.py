"""What other people's kernels cost, where they do not declare it: told in the name of the scope that they run in.

`pl.CostEstimate` stands in the compiled program for whoever reads it (`arch.plan`); so does the name of a scope.
"""

import contextlib
import re
from collections.abc import Mapping

import jax


def told(costs: Mapping[str, tuple[int, int, int]]) -> contextlib.AbstractContextManager:
    """A scope in which the kernels cost what is said: by a part of their names, FLOPs, transcendentals and bytes."""
    return jax.named_scope("cost" + "".join(f".{name}-{'-'.join(map(str, cost))}" for name, cost in costs.items()))


def of(kernel: str, path: str) -> dict[str, float]:
    """What a kernel costs by the scopes of its path, in the words of `pl.CostEstimate`; {} where nothing is told.

    Args:
      kernel: its name in the compiled program.
      path: the `op_name` there.
    """
    found = re.findall(r"\.(\w+)-(\d+)-(\d+)-(\d+)", path)
    names = ("flops", "transcendentals", "bytes_accessed")
    return next((dict(zip(names, map(float, cost))) for name, *cost in found if name in kernel), {})
