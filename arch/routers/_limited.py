"""Base of the routers whose experts take so many tokens and no more, in training and in evaluation (Switch, GShard)."""

from arch import config
from arch.ops.routing import capacity
from arch.routers._router import Demand, Router


@config.frozen
class Limited(Router):
    """A router with a capacity.

    Attributes:
      capacity_factor: in training, how many times its even share of a row's pairs an expert takes.
      eval_capacity_factor: the same in evaluation; num_experts / top_k and above drops nothing.
    """

    capacity_factor: config.PositiveFloat
    eval_capacity_factor: config.PositiveFloat

    def drops_nothing(self, demand: Demand, *, training: bool) -> bool:
        """Whether each expert has room for a whole row."""
        return self.factor(not training) * demand.k >= demand.num_experts

    def factor(self, deterministic: bool) -> float:
        """The capacity factor in evaluation or in training."""
        return self.eval_capacity_factor if deterministic else self.capacity_factor

    def capacity(self, tokens: int, demand: Demand, deterministic: bool) -> int:
        """By the factor."""
        sizes = dict(k=demand.k, num_experts=demand.num_experts)
        return capacity.limit(tokens, capacity_factor=self.factor(deterministic), **sizes)
