"""Experts at random, in turn, or all the same ones, whatever the router says: to find out what breaks."""

from typing import ClassVar, Literal

import jax

from arch import config
from arch.ops.routing import forced
from arch.routers._router import Router, fold, gate_lives


@config.frozen
class Config(Router):
    """Forced routes, see `arch.ops.routing.forced`; the weights, and so the gradients, are the router's.

    Attributes:
      kind: 'random' by position, anew each step of training; 'balanced', in turn by position; 'skewed'.
      share: of the tokens that 'skewed' sends to the first k experts; the others go in turn.
    """

    kind: Literal["random", "balanced", "skewed"] = "random"
    share: config.Fraction = 1.0

    unnormalized: ClassVar[bool] = True

    def check(self):
        if self.kind != "skewed" and self.share != 1.0:
            raise ValueError(f"share={self.share} must be 1.0 with kind={self.kind!r}, only 'skewed' has a share")

    @property
    def balances(self):
        """In turn."""
        return self.kind == "balanced" or not self.share

    def must_suit(self, demand):
        gate_lives(self, demand)

    def route(self, own, logits, x, context, key, demand):
        """By position."""
        sizes = dict(num_experts=demand.num_experts, k=demand.k)
        if self.kind == "random":
            key = jax.random.key(0) if key is None else fold(key, 2)
            experts = forced.at_random(key, context.positions, **sizes)
        elif self.kind == "balanced":
            experts = forced.in_turn(context.positions, **sizes)
        else:
            experts = forced.skewed(context.positions, share=self.share, **sizes)
        return forced.route(logits, context.real(), experts=experts, renormalize=demand.renormalize)
