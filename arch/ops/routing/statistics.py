"""What routing looks like, for the log: loads of the experts, and how sure the router is.

    load_i     = assignments to expert i / all assignments, both as the router asked for them, before any was dropped
    cv         = standard deviation of the loads over the experts / their mean 1 / E
    entropy    = mean over tokens of -sum_i p_i log p_i;     confidence = mean over tokens of max_i p_i
    dropped    = assignments that were dropped because their expert is full / all assignments
    unserved   = tokens that reach no expert / tokens

`sums` runs in the step. It gives sums over a row's real tokens, averaged over rows: such numbers stay exact when shards
or micro-batches, of as many rows each, are averaged again. So do those of `tables`. `summary` makes ratios and extremes
of the whole batch's sums, on the host, where a step is logged: the mean of two maxima is no maximum.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from arch.ops.routing.assignment import Choice, ExpertChoice, Routing, SoftChoice, pairs
from arch.ops.routing.losses import counts
from arch.typing import Array, Bool, Float, Int

SUMS = ("expert_load", "sum_tokens", "sum_dropped", "sum_unserved", "sum_entropy", "sum_confidence")
"""The names of `sums`."""

TABLES = ("coactivation", "watched_count", "watched_load")
"""The names of `tables`."""

DEAD_BELOW = 0.01
"""An expert is dead at a load under this part of the even one."""


def sums(routing: Routing, real: Bool[Array, "b t"]) -> dict[str, Array]:
    """Sums over each row's real tokens, averaged over the rows; no gradient goes through them.

    Args:
      routing: what the router decided.
      real: [b t] which tokens are no padding.

    Returns:
      `expert_load` [e] assignments to each expert, as the router asked for them; and scalars: `sum_tokens`,
      `sum_dropped` (of those assignments), `sum_unserved` (tokens without an expert), `sum_entropy` in nats,
      `sum_confidence` (the largest probabilities).
    """
    p, load = jax.lax.stop_gradient(routing.probabilities), asked(routing)
    if isinstance(routing, SoftChoice):
        reached, computed = real, jnp.sum(load, axis=1)
    else:
        pair, row = pairs(routing), jnp.arange(real.shape[0])[:, None]
        reached = jnp.zeros(real.shape, bool).at[row, pair.tokens].max(pair.kept)
        computed = jnp.sum(pair.kept, axis=1)
    by_token = {
        "sum_tokens": jnp.ones_like(p[..., 0]),
        "sum_unserved": ~reached,
        "sum_entropy": jnp.sum(jax.scipy.special.entr(p), axis=-1),
        "sum_confidence": jnp.max(p, axis=-1),
    }
    means = {name: jnp.mean(jnp.sum(value * real, axis=1)) for name, value in by_token.items()}
    means["sum_dropped"] = jnp.mean(jnp.sum(load, axis=1) - computed)
    return {"expert_load": jnp.mean(load, axis=0), **means}


def asked(routing: Routing) -> Float[Array, "b e"]:
    """How many assignments to each expert the router asked for: where experts choose, those that they have.

    Of a soft mixture, where each token has a part in all experts, the sum of these parts.
    """
    if isinstance(routing, SoftChoice):
        return jax.lax.stop_gradient(jnp.sum(routing.probabilities, axis=1))
    if isinstance(routing, ExpertChoice):
        return jnp.sum(routing.kept, axis=-1, dtype=jnp.float32)
    return counts(routing.asked, routing.asked >= 0, num_experts=routing.probabilities.shape[-1])


def tables(
    routing: Choice,
    real: Bool[Array, "b t"],
    tokens: Int[Array, "b t"],
    watched: Int[Array, "n"],
) -> dict[str, Array]:
    """Which experts have the same tokens, and which tokens an expert has, averaged over the rows; for an evaluation.

    Args:
      routing: what the router decided.
      real: [b t] which tokens are no padding.
      tokens: [b t] ids.
      watched: [n] ascending ids, of which to tell where they go.

    Returns:
      `coactivation` [e e], tokens that reach both experts, and on the diagonal those that reach the one;
      `watched_count` [n], how often each id occurs; `watched_load` [n e], how often it reaches each expert.
    """
    pair, shape = pairs(routing), routing.probabilities.shape
    row = jnp.arange(shape[0])[:, None]
    reached = jnp.zeros(shape).at[row, pair.tokens, pair.experts].max(pair.kept)
    place = jnp.minimum(jnp.searchsorted(watched, tokens), len(watched) - 1)
    seen = (watched[place] == tokens) & real
    sums = {
        "coactivation": jnp.einsum("bte,btf->ef", reached, reached, precision=jax.lax.Precision.HIGHEST),
        "watched_count": jnp.zeros(len(watched)).at[place].add(seen),
        "watched_load": jnp.zeros((len(watched), shape[-1])).at[place].add(reached * seen[..., None]),
    }
    return {name: value / shape[0] for name, value in sums.items()}


def summary(sums: Mapping[str, Any]) -> dict[str, float]:
    """Numbers for the log.

    Args:
      sums: what `sums` gave, averaged over the batch.

    Returns:
      `load/<expert>`, `load_max`, `load_min`: shares of the assignments; `load_cv`; `dead_experts`, a number of
      experts; `dropped_fraction`; `unserved_fraction`; `router_entropy`; `top1_confidence`. All 0 for a batch of
      padding.
    """
    tokens, assigned = np.maximum(sums["sum_tokens"], 1e-9), np.asarray(sums["expert_load"], np.float64)
    load = assigned / max(assigned.sum(), 1e-9)
    numbers = {
        "load_max": load.max(),
        "load_min": load.min(),
        "load_cv": load.std() * load.size,
        "dead_experts": np.sum(load < DEAD_BELOW / load.size) if assigned.any() else 0,
        "dropped_fraction": sums["sum_dropped"] / max(assigned.sum(), 1e-9),
        "unserved_fraction": sums["sum_unserved"] / tokens,
        "router_entropy": sums["sum_entropy"] / tokens,
        "top1_confidence": sums["sum_confidence"] / tokens,
    } | {f"load/{i}": share for i, share in enumerate(load)}
    return {name: float(value) for name, value in numbers.items()}
