"""Cross-entropies in nats, and the objectives that are made of them.

    cross_entropy = -log softmax(logits)[target]

Masked tokens, next sentences and answer spans: Devlin et al., BERT, 2018, arXiv 1810.04805, sec. 3.1 and 4.2.
"""

import jax
import jax.numpy as jnp

from arch.typing import Array, Bool, Float, Int


def cross_entropy(logits: Float[Array, "*b v"], targets: Int[Array, "*b"]) -> Float[Array, "*b"]:
    """-log softmax(logits)[target] of each token, in float32."""
    wide = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    picked = jnp.take_along_axis(wide, targets[..., None], axis=-1)[..., 0]
    return jax.nn.logsumexp(wide, axis=-1) - picked


def mean_cross_entropy(logits: Float[Array, "*b v"], labels: Int[Array, "*b"]) -> Float[Array, ""]:
    """The mean cross-entropy of what has a label; 0 when nothing has one.

    Masked language modelling (labels at the masked tokens), tagging, and classification are this.

    Args:
      logits: [... v].
      labels: [...] from 0; negative where there is none (published data sets write -100).
    """
    has = labels >= 0
    return _mean(cross_entropy(logits, jnp.where(has, labels, 0)), has)


def pretraining(
    logits: Float[Array, "b t v"],
    labels: Int[Array, "b t"],
    next_logits: Float[Array, "b 2"],
    next_labels: Int[Array, "b"],
) -> Float[Array, ""]:
    """BERT's objective: the loss of the masked tokens plus that of the next sentence.

    Args:
      logits: [b t v] of the tokens.
      labels: [b t] the tokens that were masked, negative elsewhere.
      next_logits: [b 2].
      next_labels: [b] 0 where the second sentence follows the first, 1 where it is another.
    """
    return mean_cross_entropy(logits, labels) + mean_cross_entropy(next_logits, next_labels)


def span(
    logits: Float[Array, "b t 2"], start: Int[Array, "b"], end: Int[Array, "b"], valid: Bool[Array, "b t"] | None = None
) -> Float[Array, ""]:
    """The mean of the answers' cross-entropies at their start and at their end.

    Args:
      logits: [b t 2] of starting and of ending at each token.
      start: [b] the answer's first token; outside 0 ... t - 1 it does not count.
      end: [b] its last token, likewise.
      valid: [b t] tokens that may be chosen; None for all, padding too, as in BERT's released code.
    """
    places = jnp.stack([start, end])
    inside = (places >= 0) & (places < logits.shape[1])
    masked = logits if valid is None else jnp.where(valid[..., None], logits, jnp.finfo(logits.dtype).min)
    nats = cross_entropy(jnp.moveaxis(masked, -1, 0), jnp.where(inside, places, 0))
    return (_mean(nats[0], inside[0]) + _mean(nats[1], inside[1])) / 2


def _mean(values, where):
    return jnp.sum(values * where) / jnp.maximum(jnp.sum(where), 1)
