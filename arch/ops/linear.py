"""x W, with a gradient of W that is a fast product on CPU.

    dx = dy W^T,   dW = x^T dy = (dy^T x)^T

XLA:CPU (JAX 0.11.2) copies the operand that stands transposed. Left to itself it takes the larger one, and folds that
copy into the one that takes x from a scan's stack, a scalar loop with a stride of a row; or it folds the outer
transposition into the product, which then is no call of the matrix library. Two barriers keep it from both, and the
smaller operand is the one that is copied. The values are the same up to the order of sums. Reverse mode only:
on CPU `jax.jvp` of a model needs `jax.grad` inside.
"""

import math
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jax.ad_checkpoint import checkpoint_name

from arch.typing import Array, Float

PRODUCT = "product"
"""The name of a product to rematerialisation policies, which do not see into it on CPU."""


def linear(x: Float[Array, "..."], kernel: Float[Array, "..."], *, axes: int = 1, platform: str = "cpu") -> Array:
    """The product, in x's dtype.

    Args:
      x: [... d].
      kernel: [d ...]; its shape as it is declared, so that the backward pass keeps no other form of it.
      axes: the last axes of x, and the first of the kernel, that are summed over.
      platform: of the devices that will run this, as in `mesh.devices.flat[0].platform`.

    Returns:
      [... ...] the axes of both that are left.
    """
    return checkpoint_name(_linear(axes, x, kernel), PRODUCT) if platform == "cpu" else jnp.tensordot(x, kernel, axes)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _linear(axes, x, kernel):
    rows = x.shape[: x.ndim - axes]
    return (x.reshape(*rows, -1) @ _flat(kernel, axes)).reshape(*rows, *kernel.shape[axes:])


def _forward(axes, x, kernel):
    return _linear(axes, x, kernel), (x, kernel)


def _backward(axes, residuals, dy):
    x, kernel = residuals
    flat, rows = _flat(kernel, axes), x.shape[: x.ndim - axes]
    wide_x, wide_dy = lax.optimization_barrier(x).reshape(*rows, -1), dy.reshape(*rows, -1)
    over_rows = ((tuple(range(len(rows))),) * 2, ((), ()))
    d, f = flat.shape
    if d > f:
        d_kernel = lax.optimization_barrier(lax.dot_general(wide_dy, wide_x, over_rows)).T
    else:
        d_kernel = lax.dot_general(wide_x, wide_dy, over_rows)
    return (wide_dy @ flat.T).reshape(x.shape), d_kernel.reshape(kernel.shape)


def _flat(kernel, axes):
    """[d f]"""
    return kernel.reshape(math.prod(kernel.shape[:axes]), -1)


_linear.defvjp(_forward, _backward)
