"""Each expert has places that hold mixtures of all tokens: nothing is chosen or dropped (soft mixture of experts)."""

from typing import ClassVar

import jax
import jax.numpy as jnp

from arch import config
from arch.layers.flops import unknown
from arch.layers.weight import constant
from arch.ops.routing import losses, noise, soft
from arch.routers._router import WHOLE_ROW, Router, all_there, fold


@config.frozen
class Config(Router):
    """Soft routing, see `arch.ops.routing.soft`; for encoders; top_k is num_experts, `dispatch` dense.

    Tokens and the columns of `router` have norm 1 before their product, which the scalar `router_scale` multiplies (the
    paper's sec. 2.3). There is nothing to balance: no balance loss, no z-loss.

    Attributes:
      places: of each expert (the paper's slots). Published: 1, and as many experts as a row has tokens.
    """

    places: config.PositiveInt = 1

    mixes: ClassVar[bool] = True

    def check(self):
        all_there(self)

    def must_suit(self, demand):
        if demand.k != demand.num_experts:
            found = f"top_k={demand.k} must be num_experts={demand.num_experts} with router='soft'"
            raise ValueError(f"{found}: every token has a part in all")

    def lacks(self, demand, *, training):
        """A place is a mixture of the whole row."""
        return WHOLE_ROW

    def experts_a_token(self, demand):
        """The places are as many for a short row as for a long one: not a number of a token."""
        raise unknown(self)

    def logits(self, own, x, key, demand):
        """[b t e*places] the scaled cosines of tokens and places, in float32."""
        weight = own("router", self.start(x.shape[-1]), embed=x.shape[-1], experts=demand.num_experts * self.places)
        read = noise.jitter(x.astype(weight.dtype), fold(key, 0), epsilon=self.jitter)
        exact = jax.lax.Precision.HIGHEST
        cosine = jnp.einsum("btd,de->bte", soft.unit(read, axis=-1), soft.unit(weight, axis=0), precision=exact)
        return own("router_scale", constant(1.0)) * cosine

    def route(self, own, logits, x, context, key, demand):
        """By two softmaxes."""
        by_place = logits.reshape(*logits.shape[:2], demand.num_experts, self.places)
        return soft.route(by_place, context.real())

    def load(self, routing, real):
        """Each expert's share of what the tokens get."""
        return jax.lax.stop_gradient(losses.importance(routing.probabilities, real))
