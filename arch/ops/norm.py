"""Layer normalisation and root-mean-square normalisation over the last axis.

    LayerNorm(x) = (x - mean(x)) / sqrt(var(x) + eps) * scale + bias      Ba, Kiros, Hinton, 2016, arXiv 1607.06450
    RMSNorm(x)   = x / sqrt(mean(x^2) + eps) * scale                      Zhang, Sennrich, 2019, arXiv 1910.07467

The backward pass computes what it needs again from x: kept intermediates of its size would cost memory.
"""

from functools import partial

import jax
import jax.numpy as jnp

from arch.typing import Array, Float

_recomputed = partial(jax.checkpoint, prevent_cse=False, static_argnums=0)


def layer_norm(
    x: Float[Array, "*b d"], scale: Float[Array, "d"], bias: Float[Array, "d"] | None, *, epsilon: float
) -> Float[Array, "*b d"]:
    """LayerNorm in float32, returned in x's dtype; no shift when `bias` is None."""
    return _layer_norm(epsilon, x, scale, bias)


@_recomputed
def _layer_norm(epsilon, x, scale, bias):
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    centred = wide - jnp.mean(wide, axis=-1, keepdims=True)
    normed = centred * jax.lax.rsqrt(jnp.mean(jnp.square(centred), axis=-1, keepdims=True) + epsilon) * scale
    return (normed if bias is None else normed + bias).astype(x.dtype)


def rms_norm(x: Float[Array, "*b d"], scale: Float[Array, "d"], *, epsilon: float) -> Float[Array, "*b d"]:
    """RMSNorm in float32, returned in x's dtype."""
    return _rms_norm(epsilon, x, scale)


@_recomputed
def _rms_norm(epsilon, x, scale):
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    return (wide * jax.lax.rsqrt(jnp.mean(jnp.square(wide), axis=-1, keepdims=True) + epsilon) * scale).astype(x.dtype)
