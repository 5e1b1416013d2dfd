"""Sigmoid scores, a choice by biased scores within the best groups, weights that sum to a scale (DeepSeek-V3).

    s = sigmoid(l);   chosen: top k of s + b, within the groups whose best members sum highest
    w_i = scale * s_i / sum_{j chosen} s_j;   p = s / sum_j s_j for the sequence-wise balance loss

DeepSeek-AI, DeepSeek-V3 Technical Report, 2024, arXiv 2412.19437, eq. 12-20; the bias is Wang et al.,
Auxiliary-Loss-Free Load Balancing Strategy for Mixture-of-Experts, 2024, arXiv 2408.15664, alg. 1. The report's
groups (nodes) are ranked by affinities; its released code ranks them by the biased ones, and so do we. Its f_i (eq.
18) counts the k best unbiased scores; ours counts the experts that are used.
"""

import jax

from arch.ops.routing import scores
from arch.ops.routing.assignment import TokenChoice
from arch.typing import Array, Bool, Float


def route(
    logits: Float[Array, "b t e"],
    real: Bool[Array, "b t"],
    *,
    k: int,
    renormalize: bool = True,
    bias: Float[Array, "e"] | None = None,
    num_groups: int = 1,
    top_groups: int = 1,
    scale: float = 1.0,
) -> TokenChoice:
    """DeepSeek-V3's routing.

    Args:
      logits: [b t e].
      real: [b t] which tokens are no padding.
      k: experts a token.
      renormalize: divide the weights by their sum, else they are the sigmoids.
      bias: [e] added to the scores for the choice only, without gradient.
      num_groups: groups in which the experts lie (8 nodes).
      top_groups: groups that a token may use (4); k must be a multiple where this is less than num_groups.
      scale: factor of the weights (2.5).

    Raises:
      ValueError: k or the groups do not fit the number of experts.
    """
    if top_groups != num_groups and k % top_groups:
        raise ValueError(f"k={k} must be a multiple of top_groups={top_groups}: k / top_groups speak for a group")
    score = jax.nn.sigmoid(scores.wide(logits))
    groups = dict(num_groups=num_groups, top_groups=top_groups, members=k // top_groups)
    experts = scores.best_within(scores.biased(score, bias, logits), k, **groups)
    weights = scores.gates(score, experts, renormalize=renormalize)
    return scores.keep_all(experts, scale * weights, scores.normalized(score), real)
