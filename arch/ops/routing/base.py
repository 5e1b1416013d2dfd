"""Balanced assignment: the largest sum of scores of all ways to give each expert as many tokens (BASE layers).

    maximise sum_t l_{t a_t} with at most ceil(n / E) of the a_t equal to each i;   weights sigmoid(l_{t a_t})

Lewis et al., BASE Layers: Simplifying Training of Large, Sparse Models, 2021, arXiv 2103.16716, eq. 1-3. Solved as
there by the auction of Bertsekas (A new algorithm for the assignment problem, Mathematical Programming 21, 1981):
tokens without a place bid for the cheapest place of the expert that is worth most to them, and displace who was
there.

The assignment is made in training, where a token's expert depends on the whole row: it is not causal. In evaluation
each token goes to its best expert, as in the paper. No balance loss. The paper assigns over a device's tokens, we
over each row.
"""

import jax
import jax.numpy as jnp

from arch.ops.routing import capacity, scores
from arch.ops.routing.assignment import TokenChoice
from arch.typing import Array, Bool, Float, Int


def route(
    logits: Float[Array, "b t e"], real: Bool[Array, "b t"], *, balanced: bool, tolerance: float = 0.01
) -> TokenChoice:
    """BASE routing.

    Args:
      logits: [b t e].
      real: [b t] which tokens are no padding.
      balanced: by the assignment (training), else greedily (evaluation).
      tolerance: see `assign`.
    """
    score = scores.wide(logits)
    experts = jnp.argmax(score, axis=-1)
    if balanced:
        experts = assign(score, real, tolerance=tolerance)
    experts = experts[..., None]
    weights = jax.nn.sigmoid(scores.at(score, experts))
    return scores.keep_all(experts, weights, scores.softmax(logits), real)


def assign(score: Float[Array, "b t e"], real: Bool[Array, "b t"], *, tolerance: float) -> Int[Array, "b t"]:
    """[b t] the expert of each token, at most ceil(n / E) of a row's n real tokens to each; 0 for padding.

    Args:
      score: [b t e]; a dropped expert's, or one that is not a number, counts as the row's worst.
      real: [b t].
      tolerance: a bid goes up by at least this share of the most that a token of the row can lose. The sum is short of
        the largest possible by less than n times as much; smaller is slower.
    """
    e = score.shape[-1]
    sizes = dict(k=1, num_experts=e, capacity_factor=1.0)
    bound = capacity.limits(real, **sizes)
    places = capacity.limit(score.shape[1], **sizes)
    regret = jax.lax.stop_gradient(jnp.max(score, axis=-1, keepdims=True) - score)
    usable = real[..., None] & jnp.isfinite(regret) & (score > scores.DROPPED)
    span = jnp.max(regret, axis=(1, 2), where=usable, initial=0.0)
    value = -jnp.where(usable, regret, span[:, None, None])  # so that the auction ends whatever comes in
    step = jnp.maximum(tolerance * span, 1e-6)
    return jax.vmap(lambda *row: _auction(*row, places=places))(value, real, bound, step)


def _auction(score, real, bound, step, *, places):
    """One row's auction: a place's price is what its owner paid, infinite for places beyond the row's capacity."""
    t, e = score.shape
    price = jnp.broadcast_to(jnp.where(jnp.arange(places) < bound, 0.0, jnp.inf), (e, places)).astype(score.dtype)
    owner = jnp.full((e, places), t)  # nobody

    def unplaced(owner):
        return real & ~jnp.zeros(t + 1, bool).at[owner].set(True)[:t]

    def round_of_bids(state):
        owner, price = state
        bidding = unplaced(owner)
        cheapest = jnp.sort(jnp.pad(price, ((0, 0), (0, 1)), constant_values=jnp.inf), axis=-1)[:, :2]
        value = score - cheapest[:, 0]
        target = jnp.argmax(value, axis=-1)
        chosen = jax.nn.one_hot(target, e, dtype=bool)
        elsewhere = jnp.where(chosen, score - cheapest[:, 1], value)  # the second place of the same expert competes too
        margin = jnp.max(value, axis=-1) - jnp.max(elsewhere, axis=-1)
        bid = cheapest[target, 0] + jnp.where(jnp.isfinite(margin), margin, 0) + step
        bids = jnp.where(chosen & bidding[:, None], bid[:, None], -jnp.inf)
        winner, highest = jnp.argmax(bids, axis=0), jnp.max(bids, axis=0)
        sold = (jnp.arange(places) == jnp.argmin(price, axis=-1)[:, None]) & jnp.isfinite(highest)[:, None]
        return jnp.where(sold, winner[:, None], owner), jnp.where(sold, highest[:, None], price)

    owner, _ = jax.lax.while_loop(lambda state: jnp.any(unplaced(state[0])), round_of_bids, (owner, price))
    expert = jnp.broadcast_to(jnp.arange(e)[:, None], owner.shape)
    return jnp.zeros(t + 1, jnp.int32).at[owner].set(expert)[:t]
