"""Each token to the k experts of its highest scores, none dropped.

    softmax then select   w = the k largest of softmax(l), as they are or divided by their sum
    select then softmax   w = softmax of the k largest of l

The first is Shazeer et al., 2017, arXiv 1701.06538, sec. 2.1 as later papers have it (Fedus et al., Switch
Transformers, 2021, arXiv 2101.03961, eq. 1-2; DeepSeek-V2, 2024, arXiv 2405.04434, eq. 21-22, with groups and a
scale); the second is Jiang et al., Mixtral of Experts, 2024, arXiv 2401.04088, sec. 2.1. Divided by their sum, the
first are the second: only the unnormalised weights differ. A bias that acts on the choice alone: Wang et al.,
Auxiliary-Loss-Free Load Balancing, 2024, arXiv 2408.15664, eq. 3.
"""

from typing import Literal

from arch.ops.routing import scores
from arch.ops.routing.assignment import TokenChoice
from arch.typing import Array, Bool, Float

Order = Literal["softmax_then_select", "select_then_softmax"]


def route(
    logits: Float[Array, "b t e"],
    real: Bool[Array, "b t"],
    *,
    k: int,
    order: Order = "softmax_then_select",
    renormalize: bool = False,
    bias: Float[Array, "e"] | None = None,
    num_groups: int = 1,
    top_groups: int = 1,
    scale: float = 1.0,
) -> TokenChoice:
    """Top-k routing.

    Args:
      logits: [b t e].
      real: [b t] which tokens are no padding.
      k: experts a token.
      order: see the file's head.
      renormalize: divide the weights by their sum; changes nothing where the softmax comes last.
      bias: [e] added to the probabilities for the choice only, never to the weights, and without gradient.
      num_groups: the experts lie in so many groups, and
      top_groups: a token's in so many of these, those of the most probable experts (DeepSeek-V2's devices).
      scale: factor of the weights.

    Raises:
      ValueError: k or the groups do not fit the number of experts.
    """
    probabilities = scores.softmax(logits)
    score = scores.biased(probabilities, bias, logits)
    experts = scores.best_within(score, k, num_groups=num_groups, top_groups=top_groups, members=1)
    if order == "select_then_softmax":
        weights = scores.softmax(scores.at(logits, experts))
    else:
        weights = scores.gates(probabilities, experts, renormalize=renormalize)
    return scores.keep_all(experts, scale * weights, probabilities, real)
