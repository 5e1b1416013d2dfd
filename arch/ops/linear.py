"""x W, spelled so that the gradient of W is a fast product on CPU.

    dW = x^T dy

XLA computes it as (dy^T x)^T. Where it can, it folds that transposition into the product, which XLA:CPU then runs at a
third to two thirds of its speed (JAX 0.11.2); a channel axis in two parts is not folded. The values are the same.
"""

from functools import partial

import jax
import jax.numpy as jnp

from arch.typing import Array, Float


def linear(x: Float[Array, "*b d"], kernel: Float[Array, "d f"], *, platform: str = "cpu") -> Float[Array, "*b f"]:
    """The product, in x's dtype.

    Args:
      x: [... d].
      kernel: [d f].
      platform: of the devices that will run this, as in `mesh.devices.flat[0].platform`.
    """
    return x @ kernel if platform != "cpu" or kernel.shape[1] % 2 else _in_two_parts(x, kernel)


@partial(jax.checkpoint, prevent_cse=False)  # or the backward pass would keep the reshaped kernel beside the kernel
def _in_two_parts(x, kernel):
    d, f = kernel.shape
    return jnp.einsum("...d,dpf->...pf", x, kernel.reshape(d, 2, f // 2)).reshape(*x.shape[:-1], f)
