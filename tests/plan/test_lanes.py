"""What lies as kernels ask: what they read and write, and what that is made of or becomes without a product."""

import jax
import jax.numpy as jnp
import pytest
from jax.experimental import pallas as pl

from arch.plan import lanes

HEADS = jax.ShapeDtypeStruct((3, 5, 7, 24), jnp.float32)  # [b t n h]


def kernel(x):
    def copy(read, written):
        written[...] = read[...]

    return pl.pallas_call(copy, out_shape=jax.ShapeDtypeStruct(x.shape, x.dtype))(x)


def beside(x):
    """(what the kernel reads, by tokens; what becomes of it; a product of that; its heads as one axis)."""
    query = 2 * x
    out = kernel(query.swapaxes(1, 2)).astype(jnp.bfloat16)
    return query, out, out @ jnp.ones((24, 2), out.dtype), out.reshape(3, 7, -1)


def called(x):
    return jax.jit(beside)(x)


def scanned(x):
    _, out = jax.lax.scan(lambda carry, part: (carry, beside(part)), 0, x[None])
    return out


@pytest.mark.parametrize("function", [beside, called, scanned])
def test_what_a_kernel_reads_and_writes_fills_lanes_up(function):
    jaxpr = jax.make_jaxpr(function)(HEADS).jaxpr
    times = lanes.times(jaxpr)
    assert [times(var) for var in jaxpr.outvars] == pytest.approx([128 / 24, 128 / 24, 1, 1])


def test_without_a_kernel_nothing_does():
    jaxpr = jax.make_jaxpr(lambda x: jnp.cos(x).swapaxes(1, 2))(HEADS).jaxpr
    assert [lanes.times(jaxpr)(var) for var in jaxpr.outvars] == [1]
