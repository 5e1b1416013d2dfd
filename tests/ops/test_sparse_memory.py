"""Attention over blocks needs memory for the blocks that are not empty, forward and backward, up to 131072 tokens."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arch.ops.patterns import block_map, global_tokens, random_blocks, window
from arch.ops.sparse_attention import sparse_attend

LONGFORMER = window(65) | global_tokens(0)
BIGBIRD = window(65) | global_tokens(*range(64)) | random_blocks(2, seed=0, size=64)
LONG, CHANNELS = 131072, 4


def compiled(pattern, length, *, gradients):
    """Attention of one head, or its gradients."""
    made = block_map(pattern, length, length, block=(64, 64))
    run = lambda *arrays: sparse_attend(*arrays, made)[0]
    if gradients:
        run = jax.grad(lambda *arrays: jnp.sum(sparse_attend(*arrays, made)[0] ** 2), argnums=(0, 1, 2))
    shape = jax.ShapeDtypeStruct((1, length, 1, CHANNELS), jnp.float32)
    return jax.jit(run).lower(shape, shape, shape).compile()


slow = pytest.mark.slow


@pytest.mark.usefixtures("optimized")
@pytest.mark.parametrize(
    ("pattern", "gradients"),
    [
        pytest.param(LONGFORMER, True, id="longformer-backward"),
        pytest.param(LONGFORMER, False, id="longformer-forward", marks=slow),
        pytest.param(BIGBIRD, True, id="bigbird-backward", marks=slow),
        pytest.param(BIGBIRD, False, id="bigbird-forward", marks=slow),
    ],
)
def test_temporaries_grow_with_the_length_alone(pattern, gradients):
    short, long = (
        compiled(pattern, length, gradients=gradients).memory_analysis().temp_size_in_bytes for length in (8192, 16384)
    )
    assert long < 2.1 * short


@slow
@pytest.mark.usefixtures("optimized")
def test_131072_tokens_are_attended_in_bounded_memory():
    """A bit for each pair of tokens would be 2 GiB."""
    run = compiled(BIGBIRD, LONG, gradients=True)
    assert run.memory_analysis().temp_size_in_bytes < 2**27
    rng = np.random.default_rng(0)
    gradients = run(*(jnp.asarray(rng.standard_normal((1, LONG, 1, CHANNELS), np.float32)) for _ in range(3)))
    assert all(np.all(np.isfinite(gradient)) and np.any(gradient[:, -1]) for gradient in gradients)
