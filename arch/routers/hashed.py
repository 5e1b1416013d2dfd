"""Each token to the experts that a fixed random table has for its id or position: nothing is learned (hash layers)."""

from typing import ClassVar, Literal

import jax.numpy as jnp

from arch import config
from arch.ops.routing import hashed
from arch.routers._router import Router


@config.frozen
class Config(Router):
    """Hash routing, see `arch.ops.routing.hashed`; the layer's losses are off.

    Attributes:
      table_size: ids that the table knows; a larger one, or position, is taken modulo it.
      of: what is hashed.
      seed: of the table; layers of the same seed share it.
    """

    table_size: config.PositiveInt
    of: Literal["token", "position"] = "token"
    seed: config.NonNegativeInt = 0

    matrices: ClassVar[int] = 0

    def check(self):
        if self.jitter or self.drop_experts:
            raise ValueError(
                f"jitter={self.jitter} and drop_experts={self.drop_experts} must be 0 with router='hashed', which "
                "has no logits"
            )

    def logits(self, own, x, key, demand):
        """Zeros: nothing is scored."""
        return jnp.zeros((*x.shape[:2], demand.num_experts), jnp.float32)

    def route(self, own, logits, x, context, key, demand):
        """By the table. Raises ValueError when the model does not tell its layers the tokens."""
        ids = context.tokens if self.of == "token" else context.positions
        if ids is None:
            raise ValueError("router='hashed' of='token' needs Context.tokens, which this model does not give")
        table = hashed.random_table(self.table_size, num_experts=demand.num_experts, k=demand.k, seed=self.seed)
        return hashed.route(ids, context.real(), table=jnp.asarray(table), num_experts=demand.num_experts)
