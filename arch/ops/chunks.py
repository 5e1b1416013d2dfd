"""Time cut into chunks of equal length, for scans that go from chunk to chunk.

A scan whose step is one chunk, rematerialised, keeps one state a chunk for its backward pass instead of one a token
(Chen et al., Training Deep Nets with Sublinear Memory Cost, 2016, arXiv 1604.06174).
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from arch.typing import Array, Shaped


def split(x: Shaped[Array, "b t ..."], chunk: int, *, fill: float = 0) -> Shaped[Array, "l b c ..."]:
    """Chunks of equal length c <= chunk, in order, with `fill` behind the last token.

    Raises:
      ValueError: chunk is not positive.
    """
    if chunk < 1:
        raise ValueError(f"chunk={chunk} must be a positive number of tokens")
    batch, length = x.shape[:2]
    count = max(1, -(-length // chunk))
    size = -(-length // count)
    padding = [(0, 0), (0, count * size - length)] + [(0, 0)] * (x.ndim - 2)
    padded = jnp.pad(x, padding, constant_values=fill)
    return jnp.moveaxis(padded.reshape(batch, count, size, *x.shape[2:]), 1, 0)


def join(chunks: Shaped[Array, "l b c ..."], length: int) -> Shaped[Array, "b t ..."]:
    """The first `length` tokens of what `split` cut."""
    count, batch, size = chunks.shape[:3]
    return jnp.moveaxis(chunks, 0, 1).reshape(batch, count * size, *chunks.shape[3:])[:, :length]


def scan(step: Callable[[Any, Any], tuple[Any, Any]], carry: Any, chunks: Any) -> tuple[Any, Any]:
    """`lax.scan` over chunks that keeps the carry before each chunk for the backward pass, and nothing within one."""
    return jax.lax.scan(jax.checkpoint(step, prevent_cse=False), carry, chunks)
