"""A nearly balanced assignment in training, each token's best expert in evaluation (S-BASE)."""

from arch import config
from arch.ops.routing import sinkhorn
from arch.routers._balanced import Balanced


@config.frozen
class Config(Balanced):
    """Sinkhorn routing, see `arch.ops.routing.sinkhorn`.

    Attributes:
      iterations: scalings of the plan's columns and rows.
      temperature: of the plan.
    """

    iterations: config.PositiveInt = 20
    temperature: config.PositiveFloat = 1.0

    def route(self, own, logits, x, context, key, demand):
        """Sinkhorn's."""
        kind = dict(iterations=self.iterations, temperature=self.temperature)
        return sinkhorn.route(logits, context.real(), balanced=not context.deterministic, **kind)
