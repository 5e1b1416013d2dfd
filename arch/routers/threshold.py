"""As many experts a token, at most top_k, as their probabilities take to reach a threshold (dynamic routing)."""

from typing import ClassVar

from arch import config
from arch.layers.flops import unknown
from arch.ops.routing import threshold
from arch.routers._router import Router


@config.frozen
class Config(Router):
    """Top-p routing, see `arch.ops.routing.threshold`; the paper's top_k is the number of experts.

    Attributes:
      threshold: of the sum of a token's probabilities.
      entropy_weight: factor of the mean entropy of the probabilities.
    """

    threshold: config.Fraction = 0.4
    entropy_weight: config.NonNegativeFloat = 0.0001

    unnormalized: ClassVar[bool] = True

    @property
    def loss_weights(self):
        """The dynamic loss's."""
        return {"entropy": self.entropy_weight}

    def must_suit(self, demand):
        if demand.renormalize:
            raise ValueError("renormalize=True must be False with router='threshold', whose weights are probabilities")

    def experts_a_token(self, demand):
        """As many as the probabilities take: not known before."""
        raise unknown(self)

    def route(self, own, logits, x, context, key, demand):
        """Top-p."""
        return threshold.route(logits, context.real(), threshold=self.threshold, k=demand.k)
