"""x W + b, with the weights `<name>` and `<name>_bias`."""

import flax.linen as nn
import jax.numpy as jnp

from arch.layers.weight import constant, normal, weight
from arch.typing import Array, Float


def affine(module: nn.Module, name: str, x: Float[Array, "*b d"], **width: int) -> Float[Array, "*b f"]:
    """The result in float32, from products in x's dtype.

    Args:
      module: the module that owns the weights.
      name: of the matrix; `<name>_bias` is the shift's.
      x: [... d].
      **width: the logical name and the size of the result's axis.
    """
    d = x.shape[-1]
    kernel = weight(module, name, normal(d**-0.5), dtype=x.dtype, embed=d, **width)
    out = jnp.einsum("...d,df->...f", x, kernel, preferred_element_type=jnp.promote_types(x.dtype, jnp.float32))
    return out + weight(module, f"{name}_bias", constant(0.0), **width)
