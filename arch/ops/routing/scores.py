"""Scores of experts and the choice of the k best: the steps that routers share.

    softmax   p_i = exp(l_i) / sum_j exp(l_j)                         nearly all
    sigmoid   s_i = 1 / (1 + exp(-l_i)),   p_i = s_i / sum_j s_j      DeepSeek-V3, 2024, arXiv 2412.19437, eq. 15 and 20
"""

import dataclasses

import jax
import jax.numpy as jnp

from arch.ops.routing.assignment import TokenChoice
from arch.typing import Array, Bool, Float, Int


def wide(logits: Float[Array, "*b e"]) -> Float[Array, "*b e"]:
    """The logits in float32 or wider."""
    return logits.astype(jnp.promote_types(logits.dtype, jnp.float32))


def softmax(logits: Float[Array, "*b e"]) -> Float[Array, "*b e"]:
    """Probabilities of all experts, in float32."""
    return jax.nn.softmax(wide(logits), axis=-1)


def best(scores: Float[Array, "*b e"], k: int) -> Int[Array, "*b c"]:
    """The c = k experts of the highest scores, best first; ties go to the lower number."""
    if not 1 <= k <= scores.shape[-1]:
        raise ValueError(f"k={k} must be at least 1 and at most the number of experts, {scores.shape[-1]}")
    return jax.lax.top_k(scores, k)[1]


DROPPED = -1e9
"""The logit of an expert that is not there: finite, so that gradients stay numbers."""


def biased(score: Float[Array, "*b e"], bias: Float[Array, "e"] | None, logits: Float[Array, "*b e"]):
    """The scores by which experts are chosen: with the bias, without its gradient; a dropped expert stays out."""
    return score if bias is None else jnp.where(logits > DROPPED, score + jax.lax.stop_gradient(bias), -jnp.inf)


def at(scores: Float[Array, "*b e"], experts: Int[Array, "*b c"]) -> Float[Array, "*b c"]:
    """The scores of these experts."""
    return jnp.take_along_axis(scores, experts, axis=-1)


def gates(scores: Float[Array, "*b e"], experts: Int[Array, "*b c"], *, renormalize: bool) -> Float[Array, "*b c"]:
    """The scores of these experts, divided by their sum if so asked: the weights of their outputs."""
    weights = at(scores, experts)
    return normalized(weights) if renormalize else weights


def normalized(weights: Float[Array, "*b c"]) -> Float[Array, "*b c"]:
    """The weights divided by their sum over a token's experts; zeros stay zeros."""
    total = jnp.sum(weights, axis=-1, keepdims=True)
    return weights / jnp.where(total > 0, total, 1)


def keep_all(
    experts: Int[Array, "b t c"],
    weights: Float[Array, "b t c"],
    probabilities: Float[Array, "b t e"],
    real: Bool[Array, "b t"],
) -> TokenChoice:
    """The choice of which every pair of a real token is kept."""
    kept = jnp.broadcast_to(real[..., None], experts.shape)
    routing = TokenChoice(experts=experts, weights=weights, probabilities=probabilities, kept=kept, asked=experts)
    return narrowed(routing, kept)


def narrowed(routing: TokenChoice, wanted: Bool[Array, "b t c"]) -> TokenChoice:
    """The routing of which these pairs alone are wanted."""
    weights, asked = jnp.where(wanted, routing.weights, 0), jnp.where(wanted, routing.experts, -1)
    return dataclasses.replace(routing, weights=weights, kept=wanted, asked=asked)


def best_within(
    scores: Float[Array, "*b e"], k: int, *, num_groups: int, top_groups: int, members: int
) -> Int[Array, "*b c"]:
    """The c = k experts of the highest scores among those of a token's best groups; all are, with as many top groups.

    Args:
      scores: of all experts.
      k: how many.
      num_groups, top_groups, members: see `within_groups`.

    Raises:
      ValueError: k experts are more than lie in so many groups, or these do not fit the number of experts.
    """
    if top_groups == num_groups:
        return best(scores, k)
    if k > (within := scores.shape[-1] // num_groups * top_groups):
        raise ValueError(f"k={k} must be at most {within}, the experts in top_groups={top_groups}")
    return best(within_groups(scores, num_groups=num_groups, top_groups=top_groups, members=members), k)


def within_groups(
    scores: Float[Array, "*b e"], *, num_groups: int, top_groups: int, members: int
) -> Float[Array, "*b e"]:
    """The scores, minus infinity outside each token's best groups of experts (of devices, of nodes).

    A group's score is the sum of its `members` best: 1 in DeepSeek-V2 (arXiv 2405.04434, sec. 2.2.2); k / top_groups in
    DeepSeek-V3 (arXiv 2412.19437, sec. 2.1.2), which is 2 in its published configuration.

    Args:
      scores: of all experts; expert i is in group i // (e / num_groups).
      num_groups: a divisor of e.
      top_groups: how many groups a token may use.
      members: how many of a group's experts speak for it.

    Raises:
      ValueError: one of the above does not hold.
    """
    e = scores.shape[-1]
    if e % num_groups:
        raise ValueError(f"num_groups={num_groups} must divide the number of experts, {e}")
    if not 1 <= top_groups <= num_groups:
        raise ValueError(f"top_groups={top_groups} must be at least 1 and at most num_groups={num_groups}")
    if not 1 <= members <= e // num_groups:
        raise ValueError(f"members={members} must be at least 1 and at most the {e // num_groups} experts of a group")
    grouped = scores.reshape(*scores.shape[:-1], num_groups, e // num_groups)
    value = jnp.sum(jax.lax.top_k(grouped, members)[0], axis=-1)
    chosen = jnp.sum(jax.nn.one_hot(best(value, top_groups), num_groups, dtype=jnp.int32), axis=-2) > 0
    return jnp.where(chosen[..., None], grouped, -jnp.inf).reshape(scores.shape)
