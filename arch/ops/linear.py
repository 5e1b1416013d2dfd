"""x W, with a gradient of W that is a fast product on CPU.

    dx = dy W^T,   dW = x^T dy = (dy^T x)^T

XLA:CPU (JAX 0.11.2) copies the operand that stands transposed. Left to itself it takes the larger one, and folds that
copy into the one that takes x from a scan's stack, a scalar loop with a stride of a row; or it folds the outer
transposition into the product, which then runs at a third to two thirds of its speed. Two barriers keep it from both,
and the smaller operand is the one that is copied. The values are the same up to the order of sums. Reverse mode only:
on CPU `jax.jvp` of a model needs `jax.grad` inside.
"""

import jax
from jax import lax

from arch.typing import Array, Float


def linear(x: Float[Array, "*b d"], kernel: Float[Array, "d f"], *, platform: str = "cpu") -> Float[Array, "*b f"]:
    """The product, in x's dtype.

    Args:
      x: [... d].
      kernel: [d f].
      platform: of the devices that will run this, as in `mesh.devices.flat[0].platform`.
    """
    return _linear(x, kernel) if platform == "cpu" else x @ kernel


@jax.custom_vjp
def _linear(x, kernel):
    return x @ kernel


def _forward(x, kernel):
    return x @ kernel, (x, kernel)


def _backward(residuals, dy):
    x, kernel = residuals
    x, rows = lax.optimization_barrier(x), tuple(range(x.ndim - 1))
    over_rows = ((rows, rows), ((), ()))
    d, f = kernel.shape
    if d > f:
        return dy @ kernel.T, lax.optimization_barrier(lax.dot_general(dy, x, over_rows)).T
    return dy @ kernel.T, lax.dot_general(x, dy, over_rows)


_linear.defvjp(_forward, _backward)
