"""Two experts a token up to a capacity, the second by chance in training (GShard; GLaM in every other layer)."""

from arch import config
from arch.ops.routing import gshard, losses
from arch.routers._limited import Limited
from arch.routers._router import WHOLE_ROW, fold


@config.frozen
class Config(Limited):
    """GShard's top-2 gating, see `arch.ops.routing.gshard`; the layer's top_k is 2 and `renormalize` on.

    Attributes:
      random_second: in training the second expert is used with twice the probability that its weight says.
    """

    capacity_factor: config.PositiveFloat = 1.0
    eval_capacity_factor: config.PositiveFloat = 1.0
    random_second: bool = True

    def must_suit(self, demand):
        if demand.k != 2:
            raise ValueError(f"top_k={demand.k} must be 2 with router='gshard'")

    def lacks(self, demand, *, training):
        """A row's first choices, even of later tokens, come before any second one."""
        return () if self.drops_nothing(demand, training=training) else WHOLE_ROW

    def route(self, own, logits, x, context, key, demand):
        """GShard's."""
        factor = self.factor(context.deterministic)
        chance = fold(key, 2) if self.random_second else None
        return gshard.route(logits, context.real(), capacity_factor=factor, key=chance)

    def load(self, routing, real):
        """Of the first choices alone, whether their expert has room or not."""
        return losses.counts(routing.experts[..., :1], real[..., None], num_experts=routing.probabilities.shape[-1])
