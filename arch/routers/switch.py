"""The most probable expert, up to a capacity that training and evaluation have apart (Switch Transformer, V-MoE)."""

from typing import ClassVar

import jax.numpy as jnp

from arch import config
from arch.ops.routing import capacity, losses, switch
from arch.routers._limited import Limited
from arch.routers._router import WHOLE_ROW, one_undivided


@config.frozen
class Config(Limited):
    """Switch routing, see `arch.ops.routing.switch`; the layer's top_k is 1 and `renormalize` off.

    Attributes:
      priority: who is served first, the earlier token or the one that is surest ('batch', as V-MoE has it).
      stages: how many experts a token tries in turn; from 2 on, "no token left behind".
    """

    capacity_factor: config.PositiveFloat = 1.25
    eval_capacity_factor: config.PositiveFloat = 2.0
    priority: capacity.Priority = "token"
    stages: config.PositiveInt = 1

    unnormalized: ClassVar[bool] = True

    def check(self):
        if self.stages > 1 and self.priority != "token":
            raise ValueError(f"priority={self.priority!r} must be 'token' with stages={self.stages}")

    def must_suit(self, demand):
        one_undivided(self, demand)

    def lacks(self, demand, *, training):
        """A row's tokens compete for room, which grows with their number."""
        if self.drops_nothing(demand, training=training):
            return ()
        return WHOLE_ROW if self.priority == "batch" or self.stages > 1 else ("segments", "cache")

    def route(self, own, logits, x, context, key, demand):
        """Switch's."""
        factor = self.factor(context.deterministic)
        kind = dict(capacity_factor=factor, priority=self.priority, stages=self.stages)
        return switch.route(logits, context.real(), **kind)

    def load(self, routing, real):
        """Of the tokens' best experts, whether these have room or not: dropping must not hide the crowd."""
        best = jnp.argmax(routing.probabilities, axis=-1)[..., None]
        return losses.counts(best, real[..., None], num_experts=routing.probabilities.shape[-1])
