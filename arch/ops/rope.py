"""Rotary position embedding: pairs of channels turn by an angle proportional to the position.

    (x_i, x_{i + h/2}) -> (x_i cos a - x_{i + h/2} sin a,  x_i sin a + x_{i + h/2} cos a),   a = position * theta^(-2i/h)

Su et al., RoFormer, 2021, arXiv 2104.09864, eq. 34, with the channels paired by halves as in GPT-NeoX and LLaMA.
"""

import jax.numpy as jnp

from arch.typing import Array, Float, Int


def rotate(
    x: Float[Array, "b t n h"], positions: Int[Array, "b t"], *, theta: float, fraction: float = 1.0
) -> Float[Array, "b t n h"]:
    """Queries or keys turned by their positions, so that their products depend on position differences only.

    Args:
      x: [b t n h].
      positions: [b t].
      theta: base of the wavelengths, 10000 in the paper.
      fraction: share of the channels that turn (the first ones); GPT-NeoX turns a quarter.
    """
    turned = int(x.shape[-1] * fraction) // 2 * 2
    frequency = theta ** (-jnp.arange(0, turned, 2, dtype=jnp.float32) / max(turned, 1))
    angle = positions[..., None, None].astype(jnp.float32) * frequency
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    first, second, rest = jnp.split(wide, [turned // 2, turned], axis=-1)
    return jnp.concatenate([first * cos - second * sin, first * sin + second * cos, rest], axis=-1).astype(x.dtype)
