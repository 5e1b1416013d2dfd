"""Top-k of noisy logits with losses on importance and load (the first sparsely gated mixture of experts)."""

from typing import ClassVar

import jax
import jax.numpy as jnp

from arch import config
from arch.layers.weight import constant
from arch.ops.routing import noisy_top_k
from arch.routers._router import Router, fold


@config.frozen
class Config(Router):
    """Shazeer's gating, see `arch.ops.routing.noisy_top_k`: a second weight `router_noise`; both start as zeros.

    Attributes:
      importance_weight: factor of CV(importance)^2; 0.1 in the paper, as
      load_weight: that of CV(load)^2.
    """

    importance_weight: config.NonNegativeFloat = 0.1
    load_weight: config.NonNegativeFloat = 0.1

    matrices: ClassVar[int] = 2

    @property
    def loss_weights(self):
        """The paper's two."""
        return {"importance": self.importance_weight, "load": self.load_weight}

    def must_suit(self, demand):
        if not 1 < demand.k < demand.num_experts:
            raise ValueError(
                f"top_k={demand.k} must be above 1, where the gate has a gradient, and below "
                f"num_experts={demand.num_experts} with router='noisy_top_k'"
            )

    def start(self, embed_dim):
        """Zeros, as in the paper."""
        return constant(0.0)

    def route(self, own, logits, x, context, key, demand):
        """Noisy in training, plain top-k of the same logits in evaluation."""
        weight = own("router_noise", constant(0.0), embed=x.shape[-1], experts=demand.num_experts)
        exact = jax.lax.Precision.HIGHEST
        noise = jnp.einsum("btd,de->bte", x.astype(weight.dtype), weight, precision=exact)
        return noisy_top_k.route(logits, context.real(), k=demand.k, noise=noise, key=fold(key, 2))
