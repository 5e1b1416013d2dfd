"""Recorded experts in place of the router's choice, where the context has any: to compare two runs token by token."""

from typing import Literal

from arch import config
from arch.ops.routing import replay
from arch.routers import top_k


@config.frozen
class Config(top_k.Config):
    """Replayed routes, see `arch.ops.routing.replay`; from `Context.routes`, and softmax top-k where that is None.

    So a model of this config records its own routes in one pass (`Context.recording`) and has them given back in the
    next. With recorded weights those of any router can be replayed, capacity and all.

    Attributes:
      weights: those of this router at the recorded experts, with its gradient, or those recorded with them.
    """

    weights: Literal["router", "recorded"] = "router"

    def route(self, own, logits, x, context, key, demand):
        """As recorded. Raises ValueError when the recording is of other tokens' number."""
        given = context.routes
        if given is None:
            return super().route(own, logits, x, context, key, demand)
        if given.experts.shape[:-1] != logits.shape[:-1]:
            found = f"routes of {given.experts.shape[:-1]} rows and tokens"
            raise ValueError(f"{found} must be of {logits.shape[:-1]} with router='replay'")
        weights = given.weights if self.weights == "recorded" else None
        kind = dict(renormalize=demand.renormalize, scale=self.scale)
        return replay.route(logits, context.real(), experts=given.experts, weights=weights, **kind)
