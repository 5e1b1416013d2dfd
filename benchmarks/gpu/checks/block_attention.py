"""Attention over a block map: every kind of pattern and all extras, against the softmax over all pairs in float32."""

import functools

import jax.numpy as jnp

from arch.kernels.block_attention.flash import attend
from tests.kernels.block_attention_cases import Case, dense, with_gradients

EVERY = ("segments", "valid", "slopes", "sinks", "soft cap")
case = functools.partial(Case, dtype="bfloat16", block=(128, 128), channels=128, value_channels=128)
CASES = [
    case("causal", length=1000),
    case("causal", length=1000, dtype="float16", kv_heads=1, block=(64, 128)),
    case("full", length=517, kv_heads=4, gain=1e3),
    case("window", length=1531, rows=1),
    case("dilated", length=701, channels=64, value_channels=128),
    case("longformer", length=1201, block=(128, 64), extras=("slopes", "soft cap")),
    case("bigbird, random in each head", length=1237, extras=EVERY),
    case("bigbird, random in each head", length=1237, dtype="float16", block=(64, 64), channels=64, value_channels=64),
    case("rows that see nothing", length=301, extras=("sinks",)),
    case("rows that see nothing", length=331, dtype="float16", kv_heads=1),
]


def found(case: Case, *, kernels: str = "hopper", launch=None) -> dict:
    """By the kernels of this kind."""
    return with_gradients(functools.partial(attend, block_map=case.map, kernels=kernels, launch=launch), case)


def exact(case: Case) -> dict:
    """By all pairs."""
    return with_gradients(lambda *args, **given: dense(*args, mask=case.map.dense(), **given), case)


def unit(case: Case) -> float:
    """Weights are rounded as the operands are; of a logit, whose error grows with `gain`, it is its weight's."""
    return max(float(jnp.finfo(case.dtype).eps), 2.0**-23 * case.gain)
