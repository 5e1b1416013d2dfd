"""Fixed vectors of positions: sines and cosines of wavelengths from 2 pi to theta * 2 pi.

    PE(position, 2i) = sin(position * theta^(-2i/d)),      PE(position, 2i + 1) = cos(position * theta^(-2i/d))

Vaswani et al., Attention Is All You Need, 2017, arXiv 1706.03762, sec. 3.5. Its released code, and Marian after it, has
all sines before all cosines ('halves').
"""

import jax.numpy as jnp

from arch.ops.rope import Pairing, frequencies
from arch.typing import Array, Float, Int


def embed(
    positions: Int[Array, "b t"], embed_dim: int, *, theta: float, pairing: Pairing = "interleaved"
) -> Float[Array, "b t {embed_dim}"]:
    """[b t d] the vectors of the positions, in float32.

    Args:
      positions: [b t].
      embed_dim: d; the last cosine is left out when it is odd.
      theta: the longest wavelength in turns, 10000 in the paper.
      pairing: where the cosine of a sine stands: beside it, or half of the channels behind.
    """
    frequency = jnp.asarray(frequencies(embed_dim, theta), jnp.float32)
    angle = positions[..., None].astype(jnp.float32) * frequency
    pair = [jnp.sin(angle), jnp.cos(angle)]
    joined = jnp.concatenate(pair, -1) if pairing == "halves" else jnp.stack(pair, -1).reshape(*positions.shape, -1)
    return joined[..., :embed_dim]
