"""A balanced assignment in training, each token's best expert in evaluation (BASE layers)."""

from typing import ClassVar

from arch import config
from arch.ops.routing import base
from arch.routers._router import WHOLE_ROW, Router, all_there, one_undivided


@config.frozen
class Config(Router):
    """BASE, see `arch.ops.routing.base`; the layer's top_k is 1, `renormalize` off, and no f.P loss.

    Training is not causal: which expert a token has depends on the tokens after it. Evaluation is.

    Attributes:
      tolerance: how far from the best assignment the auction may end.
    """

    tolerance: config.PositiveFloat = 0.01

    unnormalized: ClassVar[bool] = True
    balances: ClassVar[bool] = True

    def check(self):
        all_there(self)

    def must_suit(self, demand):
        one_undivided(self, demand)

    def lacks(self, demand, *, training):
        """The assignment in training is of the whole row."""
        return WHOLE_ROW if training else ()

    def route(self, own, logits, x, context, key, demand):
        """BASE's."""
        return base.route(logits, context.real(), balanced=not context.deterministic, tolerance=self.tolerance)
