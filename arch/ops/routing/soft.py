"""Every place of every expert gets a mixture of all tokens, every token a mixture of all places (soft mixture of
experts).

    D = softmax over tokens of L,  C = softmax over places of L;   Y = C f(D^T X)
    L = X Phi, or scale * cosines of X and Phi

Puigcerver et al., From Sparse to Soft Mixtures of Experts, 2023, arXiv 2308.00951, sec. 2.1, eq. 1-3, and 2.3
(cosines: the softmaxes of plain products grow sharper with the width). Nothing is dropped and nothing unbalanced: no
losses. It is not causal: every token reads all tokens of its row.
"""

import jax
import jax.numpy as jnp

from arch.ops.routing.assignment import SoftChoice
from arch.ops.routing.scores import wide
from arch.typing import Array, Bool, Float


def route(logits: Float[Array, "b t e c"], real: Bool[Array, "b t"]) -> SoftChoice:
    """Soft routing; padding is in no mixture and gets none.

    Args:
      logits: [b t e c] L, for c places of each expert.
      real: [b t] which tokens are no padding.
    """
    score, mask = wide(logits), real[..., None, None]
    dispatch = jnp.where(mask, jax.nn.softmax(jnp.where(mask, score, -jnp.inf), axis=1), 0)
    combine = jnp.where(mask, jax.nn.softmax(score, axis=(2, 3)), 0)
    empty = ~jnp.any(real, axis=1)[:, None, None, None]  # a row of padding: the softmax over no token is not a number
    return SoftChoice(jnp.where(empty, 0, dispatch), combine)


def unit(vectors: Float[Array, "*b"], *, axis: int) -> Float[Array, "*b"]:
    """The vectors along an axis divided by their norms; zeros stay zeros."""
    square = jnp.sum(jnp.square(vectors), axis=axis, keepdims=True)
    return vectors * jax.lax.rsqrt(jnp.maximum(square, jnp.finfo(vectors.dtype).tiny))
