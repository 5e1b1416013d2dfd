"""A nearly balanced assignment in training, each token's best expert in evaluation (S-BASE)."""

from typing import ClassVar

from arch import config
from arch.ops.routing import sinkhorn
from arch.routers._router import WHOLE_ROW, Router, all_there, one_undivided


@config.frozen
class Config(Router):
    """Sinkhorn routing, see `arch.ops.routing.sinkhorn`; the layer's top_k is 1 and `renormalize` off.

    Training is not causal: which expert a token has depends on the tokens after it. Evaluation is.

    Attributes:
      iterations: scalings of the plan's columns and rows.
      temperature: of the plan.
    """

    iterations: config.PositiveInt = 20
    temperature: config.PositiveFloat = 1.0

    unnormalized: ClassVar[bool] = True

    def check(self):
        all_there(self)

    def must_suit(self, demand):
        one_undivided(self, demand)

    def lacks(self, demand, *, training):
        """The plan in training is of the whole row."""
        return WHOLE_ROW if training else ()

    def route(self, own, logits, x, context, key, demand):
        """Sinkhorn's."""
        kind = dict(iterations=self.iterations, temperature=self.temperature)
        return sinkhorn.route(logits, context.real(), balanced=not context.deterministic, **kind)
