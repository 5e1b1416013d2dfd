"""The k experts of the highest softmax probabilities (Switch without capacity, Mixtral, DeepSeek-V2, Qwen, OLMoE)."""

from typing import ClassVar

from arch import config
from arch.ops.routing import top_k
from arch.routers._router import Router, fits, gate_lives


@config.frozen
class Config(Router):
    """Softmax top-k, see `arch.ops.routing.top_k`.

    Mixtral: `renormalize`, either order. DeepSeek-V2: not renormalised, num_groups=8, top_groups=3, scale=16.

    Attributes:
      order: the softmax over all logits, or over the chosen.
      num_groups: groups (devices) in which the experts lie.
      top_groups: groups that a token may use, those of its best experts.
      scale: factor of the weights.
    """

    order: top_k.Order = "softmax_then_select"
    num_groups: config.PositiveInt = 1
    top_groups: config.PositiveInt = 1
    scale: config.PositiveFloat = 1.0

    unnormalized: ClassVar[bool] = True
    biased: ClassVar[bool] = True

    def must_suit(self, demand):
        fits(self, demand)
        gate_lives(demand, "top_k")
        if demand.k == 1 and self.order == "select_then_softmax":
            raise ValueError(
                f"order={self.order!r} must be 'softmax_then_select' with top_k=1: the softmax of one has no gradient"
            )
        within = demand.num_experts // self.num_groups * self.top_groups
        if demand.k > within:
            raise ValueError(f"top_k={demand.k} must be at most {within}, the experts in top_groups={self.top_groups}")

    def route(self, own, logits, x, context, key, demand):
        """Top-k."""
        return top_k.route(
            logits,
            context.real(),
            k=demand.k,
            order=self.order,
            renormalize=demand.renormalize,
            bias=demand.bias,
            num_groups=self.num_groups,
            top_groups=self.top_groups,
            scale=self.scale,
        )
