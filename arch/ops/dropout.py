"""Dropout (Srivastava et al., 2014): entries become 0 with probability `rate`, the others grow to keep the mean."""

import jax
import jax.numpy as jnp

from arch.typing import Array, Float, Key


def dropout(x: Float[Array, "*b"], key: Key[Array, ""], *, rate: float) -> Float[Array, "*b"]:
    """x / (1 - rate) where kept, 0 elsewhere; `rate` in [0, 1]."""
    keep = jax.random.bernoulli(key, 1.0 - rate, x.shape)
    return jnp.where(keep, x / max(1.0 - rate, 1e-6), 0).astype(x.dtype)
