"""A balanced assignment in training, each token's best expert in evaluation (BASE layers)."""

from typing import ClassVar

from arch import config
from arch.ops.routing import base
from arch.routers._balanced import Balanced


@config.frozen
class Config(Balanced):
    """BASE, see `arch.ops.routing.base`; no f.P loss.

    Attributes:
      tolerance: how far from the best assignment the auction may end.
    """

    tolerance: config.PositiveFloat = 0.01

    balances: ClassVar[bool] = True

    def route(self, own, logits, x, context, key, demand):
        """BASE's."""
        return base.route(logits, context.real(), balanced=not context.deterministic, tolerance=self.tolerance)
