"""Routes that the router does not choose: random, balanced or skewed ones, to find out what breaks.

    the experts are given, the weights are the router's:   w = p at these experts (divided by their sum)

So the gradient reaches the router as ever. Random: what a router that knows nothing does (Roller et al., Hash Layers,
2021, arXiv 2106.04426, sec. 5 has it as a baseline). Balanced: the best load there can be, for speed. Skewed: the
worst, for memory and drops. Those of an earlier pass: `replay`.
"""

import jax
import jax.numpy as jnp

from arch.ops.routing import scores
from arch.ops.routing.assignment import TokenChoice
from arch.typing import Array, Bool, Float, Int, Key


def route(
    logits: Float[Array, "b t e"],
    real: Bool[Array, "b t"],
    *,
    experts: Int[Array, "b t c"],
    renormalize: bool = True,
) -> TokenChoice:
    """The routing to these experts.

    Args:
      logits: [b t e], for the weights.
      real: [b t] which tokens are no padding.
      experts: [b t c] different ones in a token's c places, from below.
      renormalize: divide the weights by their sum.
    """
    probabilities = scores.softmax(logits)
    weights = scores.gates(probabilities, experts, renormalize=renormalize)
    return scores.keep_all(experts, weights, probabilities, real)


def at_random(
    key: Key[Array, ""], positions: Int[Array, "b t"], *, num_experts: int, k: int
) -> Int[Array, "b t c"]:
    """[b t c] k different experts for each position, all with the same chance."""
    draw = jax.vmap(lambda position: jax.random.uniform(jax.random.fold_in(key, position), (num_experts,)))
    return scores.best(jax.vmap(draw)(positions), k)


def in_turn(positions: Int[Array, "b t"], *, num_experts: int, k: int) -> Int[Array, "b t c"]:
    """[b t c] experts dealt out in turn: over positions 0 to n - 1 the loads differ by one at most, for every n."""
    return (positions[..., None] * k + jnp.arange(k)) % num_experts


def skewed(positions: Int[Array, "b t"], *, num_experts: int, k: int, share: float = 1.0) -> Int[Array, "b t c"]:
    """[b t c] a share of the positions, evenly spread, to experts 0 to k - 1; the others in turn."""
    hot = jnp.floor((positions + 1) * share) > jnp.floor(positions * share)
    return jnp.where(hot[..., None], jnp.arange(k), in_turn(positions, num_experts=num_experts, k=k))
