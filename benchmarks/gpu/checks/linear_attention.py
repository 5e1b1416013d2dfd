"""Linear attention with a decay a head, against the scan over tokens in float32."""

import functools

import jax.numpy as jnp

from arch.kernels.linear_attention.decayed import decayed_attention
from tests.kernels.decayed_cases import Case, scan, with_gradients

case = functools.partial(Case, dtype="bfloat16", channels=64, values=64, decay=0.1)
CASES = [
    case(length=1000),
    case(length=1000, channels=128, values=128, heads=2, groups=1),
    case(length=517, groups=1, channels=128, extras=("state",)),
    case(length=700, extras=("reset", "valid")),
    case(length=449, extras=("state", "forget"), values=128),
    case(length=257, decay=0.0, extras=("state",)),
    case(length=63, decay=5.0, extras=("state", "reset", "valid")),
]


def found(case: Case, *, kernels: str = "hopper", launch=None) -> dict:
    """By the kernels of this kind."""
    return with_gradients(functools.partial(decayed_attention, kernels=kernels, launch=launch), case)


def exact(case: Case) -> dict:
    """Token by token."""
    return with_gradients(scan, case)


def unit(case: Case) -> float:
    """Operands of products are rounded to the arrays' dtype; sums are in float32."""
    return float(jnp.finfo(case.dtype).eps)
