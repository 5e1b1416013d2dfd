"""Cross-entropy of the next token, in nats."""

import jax
import jax.numpy as jnp

from arch.typing import Array, Float, Int


def cross_entropy(logits: Float[Array, "*b v"], targets: Int[Array, "*b"]) -> Float[Array, "*b"]:
    """-log softmax(logits)[target] of each token, in float32."""
    wide = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    picked = jnp.take_along_axis(wide, targets[..., None], axis=-1)[..., 0]
    return jax.nn.logsumexp(wide, axis=-1) - picked
