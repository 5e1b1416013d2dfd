"""Sigmoid scores, experts within the best groups, weights that sum to a scale (DeepSeek-V3, Kimi K2)."""

from typing import ClassVar

from arch import config
from arch.ops.routing import sigmoid
from arch.routers._router import Router, fits, gate_lives


@config.frozen
class Config(Router):
    """DeepSeek-V3's gate, see `arch.ops.routing.sigmoid`.

    Published: 256 experts, top_k 8, num_groups 8, top_groups 4, scale 2.5, and in the layer bias_rate 0.001,
    balance_weight 0.0001, z_weight 0 and one shared expert.

    Attributes:
      num_groups: groups (nodes) in which the experts lie.
      top_groups: groups that a token may use; k / top_groups experts speak for each.
      scale: factor of the weights.
    """

    num_groups: config.PositiveInt = 1
    top_groups: config.PositiveInt = 1
    scale: config.PositiveFloat = 1.0

    unnormalized: ClassVar[bool] = True
    biased: ClassVar[bool] = True

    def must_suit(self, demand):
        fits(self, demand)
        gate_lives(demand, "sigmoid")
        if self.top_groups == self.num_groups:
            return
        if demand.k % self.top_groups:
            raise ValueError(f"top_k={demand.k} must be a multiple of top_groups={self.top_groups}")
        group = demand.num_experts // self.num_groups
        if demand.k // self.top_groups > group:
            raise ValueError(f"top_k={demand.k} must be at most {group * self.top_groups}, the experts in top_groups")

    def route(self, own, logits, x, context, key, demand):
        """DeepSeek-V3's."""
        return sigmoid.route(
            logits,
            context.real(),
            k=demand.k,
            renormalize=demand.renormalize,
            bias=demand.bias,
            num_groups=self.num_groups,
            top_groups=self.top_groups,
            scale=self.scale,
        )
