"""Perceptrons of experts on rows sorted by expert, for CPU: all products of a block of rows while it is in the cache.

    y_i = W_down,e (act(W_gate,e x_i) * W_up,e x_i),   e the expert whose group holds row i

The values are those of three `grouped_matmul`s. The backward pass keeps what the first products give, and computes the
hidden layer again, a block at a time: no array of hidden channels but those is ever whole.

A group is cut into blocks of equal size, after a first one for what is left over: the least of several sizes that
holds it. As in `grouped_matmul` that one may reach into what follows, which is computed later and written over it.
"""

import math
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from arch.ops.activation import ACTIVATIONS
from arch.typing import Array, Float, Int


def grouped_perceptron(
    x: Float[Array, "m d"],
    inner: tuple[Float[Array, "e d f"], ...],
    down: Float[Array, "e f d"],
    group_sizes: Int[Array, "e"],
    *,
    activation: str,
    block: int = 0,
) -> Float[Array, "m d"]:
    """Each row through its group's perceptron.

    Args:
      x: rows, those of expert 0 first, then those of expert 1, and so on.
      inner: the weights of the experts' gates and of what they gate; of the latter alone without gates.
      down: the weights of what comes out.
      group_sizes: rows of each expert, zero allowed; their sum is at most m.
      activation: a key of ACTIVATIONS.
      block: rows of a whole block; 0 for 512, less where groups are small. First blocks are a multiple of 64 or, where
        whole ones are smaller than 512, of 8 rows.

    Returns:
      Rows in x.dtype, from products summed in float32 or wider. Rows past the sum of group_sizes are zero.

    Raises:
      ValueError: block is negative.
    """
    if block < 0:
        raise ValueError(f"block={block} must be a number of rows, or 0")
    m = x.shape[0]
    block = min(block or (512 if m >= 256 * len(down) else 96 if m >= 384 else 32), max(m, 1))
    step = 64 if block >= 512 else 8
    sizes = tuple(range(step, block + 1, step)) if block % step == 0 and m >= 4 * block else (block,)
    return _perceptron(activation, sizes, x, inner, down, group_sizes)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _perceptron(activation, sizes, x, inner, down, group_sizes):
    return _forward(activation, sizes, x, inner, down, group_sizes)[0]


def _forward(activation, sizes, x, inner, down, group_sizes):
    rows = _padded(x, group_sizes, sizes)

    def multiply(block, start, left, out, weights):
        *inner, down = weights
        product = partial(_product, dtype=x.dtype)
        before = [product(_cut(rows, start, block), weight) for weight in inner]
        parts = product(_hidden(activation, *before), down), *before
        return tuple(_put(array, start, part) for array, part in zip(out, parts)), ()

    channels = x.shape[1], *(weight.shape[2] for weight in inner)
    out = tuple(jnp.zeros((len(rows), n), x.dtype) for n in channels)
    (y, *before), _ = _over_groups(multiply, out, group_sizes, (*inner, down), sizes)
    return _unpadded(y, x, group_sizes), (x, tuple(before), inner, down, group_sizes)


def _backward(activation, sizes, residuals, dy):
    x, before, inner, down, group_sizes = residuals
    rows, d_rows = (_padded(array, group_sizes, sizes) for array in (x, dy))
    wide = lambda weight: jnp.promote_types(jnp.result_type(x, weight), jnp.float32)

    def multiply(block, start, left, dx, weights):
        *inner, down = weights
        of_rows = partial(_product, dtype=x.dtype)
        of_weight = lambda a, b, weight: _product(a.T, b, dtype=wide(weight))
        row, dy = _cut(rows, start, block), _cut(d_rows, start, block)
        if left is not None:  # what lies behind the group is not its own
            dy = jnp.where((lax.iota(jnp.int32, block) < left)[:, None], dy, 0)
        hidden, pull = jax.vjp(partial(_hidden, activation), *(_cut(array, start, block) for array in before))
        d_before = pull(of_rows(dy, down.T))
        into = [of_weight(row, gradient, weight) for gradient, weight in zip(d_before, inner)]
        back = sum(of_rows(gradient, weight.T) for gradient, weight in zip(d_before, inner))
        return _put(dx, start, back), (*into, of_weight(hidden, dy, down))

    dx, gradients = _over_groups(multiply, jnp.zeros_like(rows), group_sizes, (*inner, down), sizes)
    *d_inner, d_down = (gradient.astype(weight.dtype) for gradient, weight in zip(gradients, (*inner, down)))
    return _unpadded(dx, x, group_sizes), tuple(d_inner), d_down, None


_perceptron.defvjp(_forward, _backward)


def _over_groups(multiply, out, group_sizes, weights, sizes):
    """(out, sums over each group's blocks of what else comes), from `multiply(block, start, left, out, weights_e)`.

    `left` is None where the whole block belongs to the group.
    """
    block = sizes[-1]

    def group(out, inputs):
        start, size, weights = inputs
        whole = jnp.maximum(size - 1, 0) // block
        left = size - whole * block
        first = [lambda out, b=b: multiply(b, start, left, out, weights) for b in sizes]
        fits = sum(left > b for b in sizes[:-1])  # no array of them: XLA crashes on an empty one in a loop of exchanges
        carry = lax.switch(fits, first, out)

        def add(index, carry):
            out, sums = carry
            out, more = multiply(block, start + left + index * block, None, out, weights)
            return out, jax.tree.map(jnp.add, sums, more)

        return lax.fori_loop(0, whole, add, carry)

    return lax.scan(group, out, (jnp.cumsum(group_sizes) - group_sizes, group_sizes, weights))


def _hidden(activation, first, *gated):
    return math.prod(gated, start=ACTIVATIONS[activation](first))


def _product(a, b, *, dtype):
    wide = jnp.promote_types(jnp.result_type(a, b), jnp.float32)
    return jnp.matmul(a, b, preferred_element_type=wide).astype(dtype)


def _cut(array, start, block):
    return lax.dynamic_slice_in_dim(array, start, block)


def _put(array, start, rows):
    return lax.dynamic_update_slice_in_dim(array, rows, start, axis=0)


def _padded(array, group_sizes, sizes):
    """Room for a block behind the last row; zeros behind the last group."""
    padded = jnp.pad(array, ((0, sizes[-1]), (0, 0)))
    return jnp.where(jnp.arange(len(padded))[:, None] < jnp.sum(group_sizes), padded, 0)


def _unpadded(array, like, group_sizes):
    """As many rows as `like` has; zeros behind the last group."""
    m = like.shape[0]
    return jnp.where(jnp.arange(m)[:, None] < jnp.sum(group_sizes), array[:m], 0)
