"""Base of the routers that assign a row's tokens evenly in training, and greedily in evaluation (BASE, Sinkhorn)."""

from typing import ClassVar

from arch import config
from arch.routers._router import WHOLE_ROW, Demand, Router, all_there, one_undivided


@config.frozen
class Balanced(Router):
    """A router of one expert a token; the layer's top_k is 1 and `renormalize` off.

    Training is not causal: which expert a token has depends on the tokens after it. Evaluation is.
    """

    unnormalized: ClassVar[bool] = True

    def check(self):
        all_there(self)

    def must_suit(self, demand: Demand) -> None:
        """One expert a token."""
        one_undivided(self, demand)

    def lacks(self, demand: Demand, *, training: bool) -> tuple[str, ...]:
        """The assignment in training is of the whole row."""
        return WHOLE_ROW if training else ()
