"""Base of the routers that choose within groups of experts, by biased scores, and scale the weights (DeepSeek's)."""

from typing import Any, ClassVar

from arch import config
from arch.routers._router import Demand, Router, gate_lives


@config.frozen
class Grouped(Router):
    """A router whose choice is limited to groups.

    Attributes:
      num_groups: groups (devices, nodes) in which the experts lie, as many in each.
      top_groups: groups that a token may use.
      scale: factor of the weights.
    """

    num_groups: config.PositiveInt = 1
    top_groups: config.PositiveInt = 1
    scale: config.PositiveFloat = 1.0

    unnormalized: ClassVar[bool] = True
    biased: ClassVar[bool] = True

    def must_suit(self, demand: Demand) -> None:
        """The experts lie in so many groups, a token's k in so many of these, and the gate has a gradient."""
        gate_lives(self, demand)
        if demand.num_experts % self.num_groups:
            raise ValueError(f"num_groups={self.num_groups} must divide num_experts={demand.num_experts}")
        if self.top_groups > self.num_groups:
            raise ValueError(f"top_groups={self.top_groups} must be at most num_groups={self.num_groups}")
        within = demand.num_experts // self.num_groups * self.top_groups
        if demand.k > within:
            raise ValueError(f"top_k={demand.k} must be at most {within}, the experts in top_groups={self.top_groups}")

    def options(self, demand: Demand) -> dict[str, Any]:
        """The arguments that the routings of such routers have in common."""
        return dict(
            k=demand.k,
            renormalize=demand.renormalize,
            bias=demand.bias,
            num_groups=self.num_groups,
            top_groups=self.top_groups,
            scale=self.scale,
        )
