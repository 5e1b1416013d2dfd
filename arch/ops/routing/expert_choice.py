"""Each expert chooses its tokens: the c of the row for which the router gives it the highest probability.

    S = softmax(X W);   G, I = top_c(S^T);   c = capacity_factor * n / E tokens an expert;   weights G

Zhou et al., Mixture-of-Experts with Expert Choice Routing, 2022, arXiv 2202.09368, sec. 3.2-3.3, eq. 2. Balanced by
construction: no balance loss. It is not causal: whether an expert takes a token depends on the tokens after it, nor
are a row's packed documents independent. Published: capacity factor 2, as many as top-2 has.
"""

import jax
import jax.numpy as jnp

from arch.ops.routing import scores
from arch.ops.routing.assignment import ExpertChoice
from arch.ops.routing.capacity import limit, limits
from arch.typing import Array, Bool, Float


def route(
    logits: Float[Array, "b t e"], real: Bool[Array, "b t"], *, capacity_factor: float
) -> ExpertChoice:
    """Expert choice; padding is never chosen, and ties go to the earlier token.

    Args:
      logits: [b t e].
      real: [b t] which tokens are no padding.
      capacity_factor: how many experts a token has on average.
    """
    t, e = logits.shape[1:]
    sizes = dict(k=1, num_experts=e, capacity_factor=capacity_factor)
    probabilities = scores.softmax(logits)
    eligible = jnp.where(real[..., None], probabilities, -1.0).swapaxes(1, 2)
    weights, tokens = jax.lax.top_k(eligible, limit(t, **sizes))
    place = jnp.arange(tokens.shape[-1])
    kept = jnp.broadcast_to(place < limits(real, **sizes)[:, None, None], tokens.shape)
    weights = jnp.where(kept, weights, 0)
    return ExpertChoice(tokens=tokens, weights=weights, probabilities=probabilities, kept=kept)
