"""Sigmoid scores, experts within the best groups, weights that sum to a scale (DeepSeek-V3, Kimi K2)."""

from arch import config
from arch.ops.routing import sigmoid
from arch.routers._grouped import Grouped


@config.frozen
class Config(Grouped):
    """DeepSeek-V3's gate, see `arch.ops.routing.sigmoid`; k / top_groups experts speak for each group.

    Published: 256 experts, top_k 8, num_groups 8, top_groups 4, scale 2.5, and in the layer bias_rate 0.001,
    balance_weight 0.0001, z_weight 0 and one shared expert.
    """

    def must_suit(self, demand):
        super().must_suit(demand)
        if self.top_groups != self.num_groups and demand.k % self.top_groups:
            raise ValueError(f"top_k={demand.k} must be a multiple of top_groups={self.top_groups}")

    def route(self, own, logits, x, context, key, demand):
        """DeepSeek-V3's."""
        return sigmoid.route(logits, context.real(), **self.options(demand))
