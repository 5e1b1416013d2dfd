"""Routes of an earlier pass, given back: to tell what routing does to a difference from what arithmetic does.

    the experts are the recorded ones;   w = the recorded weights, or p at these experts (divided by their sum)

With the router's own weights the gradient reaches it as ever: so Ma et al., Stabilizing MoE Reinforcement Learning by
Aligning Training and Inference Routers, 2025, arXiv 2510.11370, sec. 3, replay in training the experts that the engine
chose when it generated.
"""

import jax.numpy as jnp

from arch.ops.routing import scores
from arch.ops.routing.assignment import Choice, TokenChoice, pairs
from arch.typing import Array, Bool, Float, Int

RECORDED = ("route_experts", "route_weights")
"""The names of `recorded` among a layer's statistics."""


def recorded(routing: Choice) -> tuple[Int[Array, "b t c"], Float[Array, "b t c"]]:
    """What there is to record of a routing: each token's experts, -1 for none, and their weights.

    A token has as many places as in the routing; where experts choose, as many as there are experts.
    """
    if isinstance(routing, TokenChoice):
        return jnp.where(routing.kept, routing.experts, -1), routing.weights
    pair, row, e = pairs(routing), jnp.arange(routing.weights.shape[0])[:, None], routing.probabilities.shape[-1]
    zeros = jnp.zeros(routing.probabilities.shape, routing.weights.dtype)
    kept = zeros.astype(bool).at[row, pair.tokens, pair.experts].max(pair.kept)
    return jnp.where(kept, jnp.arange(e), -1), zeros.at[row, pair.tokens, pair.experts].add(pair.weights)


def route(
    logits: Float[Array, "b t e"],
    real: Bool[Array, "b t"],
    *,
    experts: Int[Array, "b t c"],
    weights: Float[Array, "b t c"] | None = None,
    renormalize: bool = True,
    scale: float = 1.0,
) -> TokenChoice:
    """The routing to recorded experts.

    Args:
      logits: [b t e].
      real: [b t] which tokens are no padding.
      experts: [b t c] from `recorded`: different ones in a token's c places, or -1.
      weights: [b t c] the recorded ones; None for the router's at these experts, which
      renormalize: divides by their sum, and
      scale: multiplies.
    """
    there, place, probabilities = experts >= 0, jnp.maximum(experts, 0), scores.softmax(logits)
    if weights is None:
        weights = jnp.where(there, scores.at(probabilities, place), 0)
        weights = scale * (scores.normalized(weights) if renormalize else weights)
    routing = scores.keep_all(place, weights, probabilities, real)
    return scores.narrowed(routing, routing.kept & there)
