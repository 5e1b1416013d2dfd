"""RWKV-4's WKV, against the scan over tokens in float32."""

import functools

import jax
import jax.numpy as jnp

from arch.kernels.wkv.average import wkv
from tests.kernels.wkv_cases import Case, scan, with_gradients

case = functools.partial(Case, dtype="bfloat16", channels=256)
CASES = [
    case(length=1000),
    case(length=517, channels=331, extras=("state", "reset", "valid")),
    case(length=300, gain=100.0, extras=("state",)),
    case(length=1031, dtype="float32", extras=("reset",)),
    case(length=257, dtype="float16"),
]


def found(case: Case, *, kernels: str = "hopper", launch=None) -> dict:
    """By the kernels of this kind."""
    return _flat(with_gradients(functools.partial(wkv, kernels=kernels, launch=launch), case))


def exact(case: Case) -> dict:
    """Token by token."""
    return _flat(with_gradients(scan, case))


def _flat(results: dict) -> dict:
    return {jax.tree_util.keystr(path, simple=True, separator="."): x for path, x in jax.tree.leaves_with_path(results)}


def unit(case: Case) -> float:
    """As of the selective scan; an exponent's error is its exponential's."""
    return max(float(jnp.finfo(case.dtype).eps), 2.0**-23 * max(case.gain, case.length**0.5))
