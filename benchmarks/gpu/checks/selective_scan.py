"""The selective scan, against the equation as written, in float32."""

import functools

import jax.numpy as jnp

from arch.kernels.selective_scan.scan import selective_scan
from tests.kernels.selective_scan_cases import Case, reference, with_gradients

case = functools.partial(Case, dtype="bfloat16", channels=256, states=16)
CASES = [
    case(length=1000),
    case(length=517, channels=331, extras=("state", "reset")),
    case(length=300, states=8, gain=20.0, extras=("state",)),
    case(length=1031, dtype="float32", extras=("reset",)),
    case(length=257, dtype="float16"),
]


def found(case: Case, *, kernels: str = "hopper", launch=None) -> dict:
    """By the kernels of this kind."""
    return with_gradients(functools.partial(selective_scan, kernels=kernels, launch=launch), case)


def exact(case: Case) -> dict:
    """Token by token."""
    return with_gradients(reference, case)


def unit(case: Case) -> float:
    """What is in the arrays' dtype is rounded once; sums over the tokens are in float32, their errors at random."""
    return max(float(jnp.finfo(case.dtype).eps), 2.0**-23 * case.length**0.5)
