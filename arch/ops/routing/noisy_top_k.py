"""Top-k of noisy logits, with the importance and load losses of the first sparsely gated mixture of experts.

    H_i = (x W_g)_i + normal * softplus((x W_noise)_i);     w = softmax of the k largest H
    Importance_i = sum_x w_i(x);     Load_i = sum_x Phi(((x W_g)_i - kth_excluding(H, k, i)) / softplus((x W_noise)_i))
    losses: CV(Importance)^2 and CV(Load)^2

Shazeer et al., Outrageously Large Neural Networks: The Sparsely-Gated Mixture-of-Experts Layer, 2017, arXiv
1701.06538, eq. 3-5 (noise), 6-7 (importance), 8-11 (load: the probability that another draw of this expert's noise
leaves it among the k). Both matrices start as zeros; both losses weigh 0.1. The paper sums over a device's batch, we
over each row.
"""

import dataclasses

import jax
import jax.numpy as jnp

from arch.ops.routing import losses, scores
from arch.ops.routing.assignment import TokenChoice
from arch.typing import Array, Bool, Float, Key

FLOOR = 1e-6
"""Added to the noise's deviation, which underflows where x W_noise is far below 0: the load divides by it."""


def route(
    logits: Float[Array, "b t e"],
    real: Bool[Array, "b t"],
    *,
    k: int,
    noise: Float[Array, "b t e"],
    key: Key[Array, ""] | None = None,
) -> TokenChoice:
    """Noisy top-k gating; its `losses` are 'importance' and 'load'.

    Args:
      logits: [b t e] x W_g.
      real: [b t] which tokens are no padding.
      k: experts a token.
      noise: [b t e] x W_noise; the noise has the standard deviation softplus of it, plus FLOOR.
      key: for the noise; None for no noise, and then the load is the plain count, without gradient.

    Raises:
      ValueError: k is not below the number of experts, so that none competes.
    """
    e = logits.shape[-1]
    if not 1 <= k < e:
        raise ValueError(f"k={k} must be at least 1 and below the number of experts, {e}")
    clean, stddev = scores.wide(logits), jax.nn.softplus(scores.wide(noise)) + FLOOR
    noisy = clean if key is None else clean + stddev * jax.random.normal(key, clean.shape, clean.dtype)
    experts = scores.best(noisy, k)
    weights = scores.softmax(scores.at(noisy, experts))
    routing = scores.keep_all(experts, weights, scores.softmax(clean), real)

    gates = jnp.einsum("btc,btce->bte", routing.weights, jax.nn.one_hot(experts, e))
    load = losses.counts(experts, routing.kept, num_experts=e)
    if key is not None:
        load = losses.importance(in_top_k(clean, noisy, stddev, k=k), real)
    own = {"importance": losses.cv_squared(losses.importance(gates, real)), "load": losses.cv_squared(load)}
    return dataclasses.replace(routing, losses=own)


def in_top_k(
    clean: Float[Array, "b t e"], noisy: Float[Array, "b t e"], stddev: Float[Array, "b t e"], *, k: int
) -> Float[Array, "b t e"]:
    """P(x, i): the probability that expert i is among the k when its own noise is drawn anew and no other's."""
    highest = jax.lax.top_k(noisy, k + 1)[0]
    inside = noisy > highest[..., k : k + 1]
    threshold = jnp.where(inside, highest[..., k : k + 1], highest[..., k - 1 : k])  # the k-th highest without i itself
    return jax.scipy.stats.norm.cdf((clean - threshold) / stddev)
