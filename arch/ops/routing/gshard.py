"""Two experts a token up to a capacity, the second one by chance (GShard; GLaM in every other layer).

    w_1 = g_1 / (g_1 + g_2),  w_2 = g_2 / (g_1 + g_2);   the second is used with probability min(1, 2 w_2)

Lepikhin et al., GShard, 2020, arXiv 2006.16668, sec. 2.2 and alg. 1; Du et al., GLaM, 2021, arXiv 2112.06905, sec. 4,
which gates the same way. A row is a group. Its balance loss counts first choices alone, before any is dropped:
`losses.f_dot_p` of `losses.counts(routing.experts[..., :1], ...)`, divided by E in the paper, which writes 1/E for
our E. A second choice that chance discards takes no place, as in the released code; the algorithm as printed counts
it. Published: capacity 2 n / E, a factor of 1 here; the released code has 2.0 in training and evaluation.
"""

import jax
import jax.numpy as jnp

from arch.ops.routing import capacity, scores, top_k
from arch.ops.routing.assignment import TokenChoice
from arch.typing import Array, Bool, Float, Key


def route(
    logits: Float[Array, "b t e"],
    real: Bool[Array, "b t"],
    *,
    capacity_factor: float,
    key: Key[Array, ""] | None = None,
) -> TokenChoice:
    """GShard's top-2 gating.

    Args:
      logits: [b t e].
      real: [b t] which tokens are no padding.
      capacity_factor: how much more than its even share, 2 n / E, an expert takes.
      key: for the second choice; None uses every second choice.
    """
    routing = top_k.route(logits, real, k=2, renormalize=True)
    if key is not None:
        second = 2 * routing.weights[..., 1] > jax.random.uniform(key, real.shape)
        routing = scores.narrowed(routing, routing.kept & jnp.stack([jnp.ones_like(second), second], axis=-1))
    return capacity.drop(routing, real, capacity_factor=capacity_factor)
