"""As many experts a token as it takes for their probabilities to reach a threshold (dynamic, or top-p, routing).

    from the most probable down, S = the fewest experts with sum_{i in S} p_i >= threshold;   w_i = p_i

Huang et al., Harder Tasks Need More Experts: Dynamic Routing in MoE Models, 2024, arXiv 2403.07652, sec. 3.2, eq.
4-6; and its dynamic loss (eq. 8), the entropy of p, without which the router learns to use all experts. Published:
threshold 0.4, f.P loss 0.01, entropy 0.0001.
"""

import dataclasses

import jax
import jax.numpy as jnp

from arch.ops.routing import scores
from arch.ops.routing.assignment import TokenChoice
from arch.typing import Array, Bool, Float


def route(
    logits: Float[Array, "b t e"], real: Bool[Array, "b t"], *, threshold: float, k: int
) -> TokenChoice:
    """Top-p routing; its `losses` are 'entropy' (mean over each row's real tokens, then over the rows).

    Args:
      logits: [b t e].
      real: [b t] which tokens are no padding.
      threshold: of the sum of probabilities, from 0 (one expert a token) to 1.
      k: the most experts that a token may have; the paper has no bound, the number of experts.
    """
    probabilities = scores.softmax(logits)
    experts = scores.best(probabilities, k)
    weights = scores.at(probabilities, experts)
    before = jnp.cumsum(weights, axis=-1) - weights
    needed = (before < threshold) | (jnp.arange(k) == 0)
    routing = scores.keep_all(experts, weights, probabilities, real)
    routing = scores.narrowed(routing, routing.kept & needed)
    return dataclasses.replace(routing, losses={"entropy": entropy(logits, real)})


def entropy(logits: Float[Array, "b t e"], real: Bool[Array, "b t"]) -> Float[Array, ""]:
    """-sum_i p_i log p_i, averaged over each row's real tokens, then over the rows; log E when p is uniform."""
    log_p = jax.nn.log_softmax(scores.wide(logits), axis=-1)
    each = -jnp.sum(jnp.where(log_p > -jnp.inf, jnp.exp(log_p) * log_p, 0), axis=-1) * real
    return jnp.mean(jnp.sum(each, axis=1) / jnp.maximum(jnp.sum(real, axis=1), 1))
