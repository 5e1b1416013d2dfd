"""Grouped matrix product: rows sorted by expert, each times the weight of its own expert, none dropped, none padded.

    y_i = x_i W_{e(i)},   e(i) the expert whose group holds row i

`lax.ragged_dot` says this, but XLA makes it a dense product over all experts on CPU and GPU. Here blocks of rows of one
expert are cut from the sorted rows and multiplied one after another. The idea of blocks that belong to one expert is
that of Gale et al. 2022, "MegaBlocks: Efficient Sparse Training with Mixture-of-Experts" (arXiv 2211.15841, sec. 5);
the groups are not padded to whole blocks as there: a group's last block reaches into the next group, and what it writes
there the next group's first block, running later, writes over.
"""

from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
from jax import lax

from arch.ops.int8 import Int8, dequantized
from arch.typing import Array, Float, Int


def grouped_matmul(
    x: Float[Array, "m d"],
    weight: Float[Array, "e d f"] | Int8,
    group_sizes: Int[Array, "e"],
    *,
    block: int = 0,
    implementation: Literal["blocks", "ragged_dot"] = "blocks",
) -> Float[Array, "m f"]:
    """Multiplies each row by the weight of its group.

    Args:
        x: rows, those of expert 0 first, then those of expert 1, and so on.
        weight: one matrix an expert; an Int8 has no gradient, and 'blocks' dequantises one expert's at a time.
        group_sizes: rows of each expert, zero allowed; their sum is at most m.
        block: rows multiplied at a time by 'blocks', of which at most block - 1 an expert in vain; 0 for 128, or
            64 where groups have fewer rows than that on average.
        implementation: 'blocks' as above; 'ragged_dot' is `lax.ragged_dot`, native on TPU. Which suits a device, and
            what else there is: `arch.kernels.grouped_matmul.choice`.

    On a mesh, call it inside `shard_map` (`check_vma=False`): the rows of a group must lie on one device.

    Returns:
        Products in x.dtype, summed in float32 or wider. Rows past the sum of group_sizes are zero.

    Raises:
        ValueError: block or implementation is not one of the above.
    """
    if block < 0:
        raise ValueError(f"block={block} must be a number of rows, or 0")
    if implementation == "blocks":
        block = block or (128 if x.shape[0] >= 128 * weight.shape[0] else 64)
        multiply = _multiplied if isinstance(weight, Int8) else _blocks
        return multiply(x, weight, group_sizes, min(block, max(1, x.shape[0])))
    if implementation == "ragged_dot":
        weight = dequantized(weight, x.dtype) if isinstance(weight, Int8) else weight
        y = lax.ragged_dot(x, weight, group_sizes, preferred_element_type=x.dtype)  # TPUs sum in float32
        return jnp.where(jnp.arange(x.shape[0])[:, None] < jnp.sum(group_sizes), y, 0)
    raise ValueError(f"implementation={implementation!r} must be 'blocks' or 'ragged_dot'")


def _wide(x, weight):
    return jnp.promote_types(jnp.result_type(x, weight), jnp.float32)


def _over_groups(group, out, group_sizes, weight):
    """Scans `group(out, start, size, weight_e) -> (out, y_e)` over the experts."""
    starts = jnp.cumsum(group_sizes) - group_sizes
    return lax.scan(lambda out, inputs: group(out, *inputs), out, (starts, group_sizes, weight))


def _within(rows, size, index):
    """Rows of the index-th block of a group of this size, zero where the block leaves the group."""
    block = rows.shape[0]
    return jnp.where((index * block + lax.iota(jnp.int32, block) < size)[:, None], rows, 0)


def _of_groups(rows, like, group_sizes):
    """The first rows, as many as `like` has; zero behind the last group."""
    m = like.shape[0]
    return jnp.where(jnp.arange(m)[:, None] < jnp.sum(group_sizes), rows[:m], 0)


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def _blocks(x, weight, group_sizes, block):
    return _multiplied(x, weight, group_sizes, block)


def _multiplied(x, weight, group_sizes, block):
    padded = jnp.pad(x, ((0, block), (0, 0)))
    dtype = _wide(x, x if isinstance(weight, Int8) else weight)

    def group(y, start, size, weight):
        weight = dequantized(weight, x.dtype) if isinstance(weight, Int8) else weight

        def multiply(index, y):
            rows = lax.dynamic_slice_in_dim(padded, start + index * block, block)
            product = jnp.matmul(rows, weight, preferred_element_type=dtype).astype(x.dtype)
            return lax.dynamic_update_slice_in_dim(y, product, start + index * block, axis=0)

        return lax.fori_loop(0, -(-size // block), multiply, y), None

    y, _ = _over_groups(group, jnp.zeros((len(padded), weight.shape[2]), x.dtype), group_sizes, weight)
    return _of_groups(y, x, group_sizes)


def _blocks_forward(x, weight, group_sizes, block):
    return _blocks(x, weight, group_sizes, block), (x, weight, group_sizes)


def _blocks_backward(block, residuals, dy):
    """An expert's weight gradient is summed by itself, never as a full [e d f] array a block."""
    x, weight, group_sizes = residuals
    dtype = _wide(x, weight)
    padded, dy = (jnp.pad(_of_groups(array, array, group_sizes), ((0, block), (0, 0))) for array in (x, dy))

    def group(dx, start, size, weight):
        def multiply(index, carry):
            dx, d_weight = carry
            rows = lax.dynamic_slice_in_dim(padded, start + index * block, block)
            d_rows = lax.dynamic_slice_in_dim(dy, start + index * block, block)
            product = jnp.matmul(d_rows, weight.T, preferred_element_type=dtype).astype(x.dtype)
            dx = lax.dynamic_update_slice_in_dim(dx, product, start + index * block, axis=0)
            if rows.shape[1] < d_rows.shape[1]:  # the narrower one costs less to cut
                rows = _within(rows, size, index)
            else:
                d_rows = _within(d_rows, size, index)
            return dx, d_weight + jnp.matmul(rows.T, d_rows, preferred_element_type=dtype)

        carry = dx, jnp.zeros(weight.shape, dtype)
        dx, d_weight = lax.fori_loop(0, -(-size // block), multiply, carry)
        return dx, d_weight.astype(weight.dtype)

    dx, d_weight = _over_groups(group, jnp.zeros_like(padded), group_sizes, weight)
    return _of_groups(dx, x, group_sizes), d_weight, None


_blocks.defvjp(_blocks_forward, _blocks_backward)
