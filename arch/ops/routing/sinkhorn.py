"""Nearly balanced assignment by Sinkhorn's scaling (the S-BASE of routed language models).

    Pi = diag(u) exp(l / tau) diag(v) with rows that sum to 1 and columns to n / E;   expert of token t: argmax_i Pi_ti

Clark et al., Unified Scaling Laws for Routed Language Models, 2022, arXiv 2202.01169, sec. 3 and app. B, in place of
BASE's exact assignment (`base`). Choosing the largest entry of each row of the balanced plan is balanced only nearly;
a capacity may follow. In training a token's expert depends on the whole row: it is not causal. In evaluation each
token goes to its best expert. The weight is the softmax probability of that expert, as in Switch; the scaling gets no
gradient.
"""

import jax
import jax.numpy as jnp

from arch.ops.routing import scores
from arch.ops.routing.assignment import TokenChoice
from arch.typing import Array, Bool, Float


def route(
    logits: Float[Array, "b t e"],
    real: Bool[Array, "b t"],
    *,
    balanced: bool,
    iterations: int = 20,
    temperature: float = 1.0,
) -> TokenChoice:
    """Sinkhorn routing.

    Args:
      logits: [b t e].
      real: [b t] which tokens are no padding.
      balanced: by the plan (training), else greedily (evaluation).
      iterations: scalings of columns and rows.
      temperature: tau; the smaller, the nearer the best assignment, and the more iterations it takes.
    """
    probabilities = scores.softmax(logits)
    score = jax.lax.stop_gradient(scores.wide(logits)) / temperature
    if balanced:
        score = score + column_scaling(score, real, iterations=iterations)[:, None]
    experts = jnp.argmax(score, axis=-1)[..., None]
    return scores.keep_all(experts, scores.at(probabilities, experts), probabilities, real)


def column_scaling(score: Float[Array, "b t e"], real: Bool[Array, "b t"], *, iterations: int) -> Float[Array, "b e"]:
    """log v: the expert's common factor, which alone decides, since u_t is the same for all experts of a token."""
    e = score.shape[-1]
    even = jnp.log(jnp.maximum(jnp.sum(real, axis=1, keepdims=True), 1) / e)

    def scale(_, column):
        row = -jax.nn.logsumexp(score + column[:, None], axis=-1)
        row = jnp.where(real, row, -jnp.inf)
        total = jax.nn.logsumexp(score + row[..., None], axis=1)
        return even - jnp.where(jnp.isfinite(total), total, 0)

    return jax.lax.fori_loop(0, iterations, scale, jnp.zeros((score.shape[0], e), score.dtype))
