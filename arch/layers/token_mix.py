"""A token mixed with the one before it, channel by channel: mu x_t + (1 - mu) x_{t-1}.

Peng et al., RWKV: Reinventing RNNs for the Transformer Era, 2023, arXiv 2305.13048, sec. 3.1.1.
"""

import flax.linen as nn
import jax.numpy as jnp

from arch.layers.weight import weight
from arch.typing import Array, Float


def mixed(
    module: nn.Module, name: str, x: Float[Array, "b t d"], before: Float[Array, "b t d"], *, power: float
) -> Float[Array, "b t d"]:
    """The mixture, by the module's weight `mix_<name>`: the share of x_t.

    Args:
      module: the module that owns the weight.
      name: what the mixture is for.
      x: tokens.
      before: the token before each one.
      power: the shares start as (channel / channels)^power.
    """
    initial = lambda key, shape: (jnp.arange(shape[0], dtype=jnp.float32) / shape[0]) ** power
    mix = weight(module, f"mix_{name}", initial, dtype=x.dtype, embed=x.shape[-1])
    return x * mix + before * (1 - mix)
