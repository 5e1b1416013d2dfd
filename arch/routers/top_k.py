"""The k experts of the highest softmax probabilities (Switch without capacity, Mixtral, DeepSeek-V2, Qwen, OLMoE)."""

from arch import config
from arch.ops.routing import top_k
from arch.routers._grouped import Grouped


@config.frozen
class Config(Grouped):
    """Softmax top-k, see `arch.ops.routing.top_k`; a group's best expert speaks for it.

    Mixtral: `renormalize`, either order. DeepSeek-V2: not renormalised, num_groups=8, top_groups=3, scale=16.

    Attributes:
      order: the softmax over all logits, or over the chosen.
    """

    order: top_k.Order = "softmax_then_select"

    def must_suit(self, demand):
        super().must_suit(demand)
        if demand.k == 1 and self.order == "select_then_softmax":
            raise ValueError(
                f"order={self.order!r} must be 'softmax_then_select' with top_k=1: the softmax of one has no gradient"
            )

    def route(self, own, logits, x, context, key, demand):
        """Top-k."""
        return top_k.route(logits, context.real(), order=self.order, **self.options(demand))
