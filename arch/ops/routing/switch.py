"""Each token to its single most probable expert, which weighs it by that probability, up to a capacity (Switch).

    y = p_i(x) E_i(x),   i = argmax p,   p = softmax(W x);   an expert takes capacity_factor * n / E tokens

Fedus, Zoph, Shazeer, Switch Transformers, 2021, arXiv 2101.03961, eq. 1-3. The weight carries the gradient to the
router: divided by the sum over the chosen, as in Mixtral, it would be the constant one. Published: capacity factor
1.0 to 2.0 in training, 2.0 in evaluation, input jitter 0.01 (`noise.jitter`), f.P loss 0.01.
"""

from arch.ops.routing import capacity, top_k
from arch.ops.routing.assignment import TokenChoice
from arch.typing import Array, Bool, Float


def route(
    logits: Float[Array, "b t e"],
    real: Bool[Array, "b t"],
    *,
    capacity_factor: float,
    priority: capacity.Priority = "token",
    stages: int = 1,
) -> TokenChoice:
    """Switch routing.

    Args:
      logits: [b t e].
      real: [b t] which tokens are no padding.
      capacity_factor: how much more than its even share an expert takes.
      priority: which tokens are served first, see `capacity.drop`; with stages above 1 the earlier ones.
      stages: how many experts a token tries ("no token left behind": 2 or more).
    """
    routing = top_k.route(logits, real, k=1)
    if stages > 1:
        if priority != "token":
            raise ValueError(f"priority={priority!r} must be 'token' with stages={stages}")
        return capacity.second_chance(routing, real, capacity_factor=capacity_factor, stages=stages)
    return capacity.drop(routing, real, capacity_factor=capacity_factor, priority=priority)
