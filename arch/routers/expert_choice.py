"""Each expert chooses its tokens: balanced by construction, and not causal (expert choice)."""

from typing import ClassVar

from arch import config
from arch.ops.routing import capacity, expert_choice
from arch.routers._router import WHOLE_ROW, Router, all_there


@config.frozen
class Config(Router):
    """Expert choice, see `arch.ops.routing.expert_choice`; for encoders, `renormalize` off and no f.P loss.

    The paper's capacity factor 2 is the layer's top_k=2 here: how many experts a token has on average.

    Attributes:
      capacity_factor: how many times its even share of a row's top_k * n pairs an expert takes.
    """

    capacity_factor: config.PositiveFloat = 1.0

    unnormalized: ClassVar[bool] = True
    balances: ClassVar[bool] = True
    by_expert: ClassVar[bool] = True

    def check(self):
        all_there(self)

    def must_suit(self, demand):
        if demand.renormalize:
            raise ValueError("renormalize=True must be False with router='expert_choice', whose tokens' experts vary")

    def lacks(self, demand, *, training):
        """Whether an expert takes a token depends on all tokens of the row, unless it takes them all."""
        takes_all = self.capacity_factor * demand.k >= demand.num_experts
        return () if takes_all else WHOLE_ROW

    def experts_a_token(self, demand):
        """What the experts take together, at most all of them."""
        return min(self.capacity_factor * demand.k, demand.num_experts)

    def capacity(self, tokens, demand, deterministic):
        """The same in training and evaluation."""
        factor = self.capacity_factor * demand.k
        return capacity.limit(tokens, k=1, num_experts=demand.num_experts, capacity_factor=factor)

    def route(self, own, logits, x, context, key, demand):
        """By the experts."""
        return expert_choice.route(logits, context.real(), capacity_factor=self.capacity_factor * demand.k)
