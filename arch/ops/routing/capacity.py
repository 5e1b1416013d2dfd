"""Capacity: an expert takes so many of a row's pairs, and the rest are dropped or find another expert.

    capacity = ceil(capacity_factor * k * n / E),   n: the row's real tokens

Fedus, Zoph, Shazeer, Switch Transformers, 2021, arXiv 2101.03961, eq. 3 and, for the second chance ("no token left
behind"), appendix B. Lepikhin et al., GShard, 2020, arXiv 2006.16668, alg. 1: all first choices before any second.
Batch priority: Riquelme et al., Scaling Vision with Sparse Mixture of Experts (V-MoE), 2021, arXiv 2106.05974, sec.
4.

Papers count the padded tokens of the batch; n counts a row's real ones, so that padding changes nothing. A row's
capacity is known at run time only, `limit(t, ...)` of all its tokens is the static bound that buffers have. With
token priority and one choice, a token's fate depends on the tokens before it alone; with more choices, or batch
priority, on all of the row.
"""

import dataclasses
import math
from typing import Literal

import jax.numpy as jnp
import numpy as np

from arch.ops.routing import scores
from arch.ops.routing.assignment import TokenChoice, places
from arch.typing import Array, Bool, Int

Priority = Literal["token", "batch"]


def limit(tokens: int, *, k: int, num_experts: int, capacity_factor: float) -> int:
    """The capacity of an expert for a row of so many tokens; no more than the tokens."""
    even = capacity_factor * k * tokens / num_experts
    return min(tokens, math.ceil(even - 1e-9))  # 1.1 * 10 / 11 is 1, and a little more in binary


def limits(real: Bool[Array, "b t"], *, k: int, num_experts: int, capacity_factor: float) -> Int[Array, "b"]:
    """[b] the capacity of an expert for each row's real tokens."""
    sizes = dict(k=k, num_experts=num_experts, capacity_factor=capacity_factor)
    table = np.asarray([limit(n, **sizes) for n in range(real.shape[1] + 1)], np.int32)
    return jnp.asarray(table)[jnp.sum(real, axis=1)]


def drop(
    routing: TokenChoice, real: Bool[Array, "b t"], *, capacity_factor: float, priority: Priority = "token"
) -> TokenChoice:
    """The routing without the pairs that find their expert full.

    Args:
      routing: of k places a token.
      real: [b t] which tokens are no padding.
      capacity_factor: how much more than its even share an expert takes; 0 drops everything.
      priority: who is served first among equal choices: the earlier token, or the one of the higher largest weight.
    """
    b, t, k = routing.experts.shape
    e = routing.probabilities.shape[-1]
    order = jnp.broadcast_to(jnp.arange(t), (b, t))
    if priority == "batch":
        order = jnp.argsort(-jnp.max(routing.weights, axis=-1), axis=1, stable=True)
    rank = jnp.argsort(order, axis=1)
    served = lambda leaf: jnp.take_along_axis(leaf, order[..., None], axis=1).swapaxes(1, 2).reshape(b, k * t)
    place = places(served(routing.experts), served(routing.kept), num_experts=e)
    place = jnp.take_along_axis(place.reshape(b, k, t).swapaxes(1, 2), rank[..., None], axis=1)
    bound = limits(real, k=k, num_experts=e, capacity_factor=capacity_factor)
    kept = routing.kept & (place < bound[:, None, None])
    return dataclasses.replace(routing, kept=kept, weights=jnp.where(kept, routing.weights, 0))


def second_chance(
    routing: TokenChoice, real: Bool[Array, "b t"], *, capacity_factor: float, stages: int = 2
) -> TokenChoice:
    """Top-1 routing in which a token that finds its expert full goes to its next best one, if that has room.

    An expert of probability 0, which `noise.drop_experts` took away, is none.

    Args:
      routing: of one place a token, nothing dropped.
      real: [b t] which tokens are no padding.
      capacity_factor: as in `drop`.
      stages: how many experts a token tries; with as many as there are experts and a factor of 1, none is dropped.

    Raises:
      ValueError: the routing has more than one place a token.
    """
    if routing.experts.shape[-1] != 1:
        raise ValueError(f"routing has {routing.experts.shape[-1]} places a token, must have 1 for a second chance")
    e = routing.probabilities.shape[-1]
    bound = limits(real, k=1, num_experts=e, capacity_factor=capacity_factor)[:, None]
    choices = scores.best(routing.probabilities, min(stages, e))
    experts, done = routing.experts[..., 0], jnp.zeros_like(real)
    used = jnp.zeros((real.shape[0], e), jnp.int32)
    for stage in range(choices.shape[-1]):
        tried = choices[..., stage]
        there = scores.at(routing.probabilities, tried[..., None])[..., 0] > 0
        waiting = real & ~done & there
        place = places(tried, waiting, num_experts=e) + jnp.take_along_axis(used, tried, axis=1)
        now = waiting & (place < bound)
        experts, done = jnp.where(now, tried, experts), done | now
        used += jnp.sum((tried[..., None] == jnp.arange(e)) & now[..., None], axis=1)
    weights = jnp.where(done[..., None], scores.at(routing.probabilities, experts[..., None]), 0)
    return dataclasses.replace(routing, experts=experts[..., None], weights=weights, kept=done[..., None])
