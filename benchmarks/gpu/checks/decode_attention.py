"""Attention to a cache: rows of all lengths, windows and extras, against the softmax over all slots in float32."""

import functools

import jax
import jax.numpy as jnp

from arch.kernels.decode_attention.decode import attend
from tests.kernels.decode_attention_cases import Case

case = functools.partial(Case, dtype="bfloat16", channels=128, value_channels=128)
CASES = [
    case((1000, 1, 517, 0), slots=1000),
    case((8192, 5000), slots=8192, kv_heads=1, tokens=4, sinks=True, soft_cap=5.0),
    case((3001, 70), slots=3008, window=300, dtype="float16", channels=64),
    case((129, 128), slots=136, kv_heads=4, gain=1e3, value_channels=64),
]


def found(case: Case, *, kernels: str = "hopper", launch=None) -> dict:
    """By the kernels of this kind."""
    run = functools.partial(attend, kernels=kernels, launch=launch)
    return {"out": jax.jit(lambda *arrays: run(*arrays, **case.given()))(*case.arrays())}


def exact(case: Case) -> dict:
    """By all slots."""
    return {"out": case.exact()}


def unit(case: Case) -> float:
    """Weights are rounded as the operands are; of a logit, whose error grows with `gain`, it is its weight's."""
    return max(float(jnp.finfo(case.dtype).eps), 2.0**-23 * case.gain)
