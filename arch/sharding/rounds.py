"""Expert parallelism in rounds: nothing is dropped, and the buffers are as large as an even load needs, not any load.

    y = sum_r back_r(experts(there_r(x))),   round r takes rows r L to (r + 1) L - 1 of the queue for each other shard

A round has `L` places for each sender. An even load takes one round when L is a little more than what it sends; a
skewed one takes as many as its fullest queue needs, found out as the program runs. Gradients of the experts' weights
are summed over the rounds in the weights' dtype.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from arch.sharding import exchange
from arch.typing import Array, Float, Int


def in_rounds(
    experts: Callable[..., Array], arrays: Any, weights: Any, sizes: Int[Array, "e"], *, limit: int, **how
) -> Float[Array, "m d"]:
    """Rows through the experts of all shards, at most `limit` rows from each shard to each other one at a time.

    As many rounds as the fullest queue needs. What is inside one is computed again for its gradient, and never kept.

    Args:
      experts: experts(arrays, weights, sizes) on the experts' shard, of arrays [n*limit ...] sorted by expert: result
        [n*limit d]. It may close over no array.
      arrays: [m ...] of this shard's rows, sorted by expert: a tree.
      weights: what else the experts read: a tree.
      sizes: [e] rows for each expert, of this shard.
      limit: rows of a round.
      **how: as in `arch.sharding.exchange.sorted_rows`.
    """
    (m,) = {array.shape[0] for array in jax.tree.leaves(arrays)}
    leaves, structure = jax.tree.flatten((arrays, weights))
    real = [jnp.issubdtype(leaf.dtype, jnp.inexact) for leaf in leaves]
    given, fixed = ([leaf for leaf, which in zip(leaves, real) if which is wanted] for wanted in (True, False))

    def one(index, given, fixed, sizes):
        mine = {True: iter(given), False: iter(fixed)}
        arrays, weights = structure.unflatten([next(mine[which]) for which in real])
        there, back, got = exchange.sorted_rows(sizes, num_rows=m, limit=limit, sent_before=index * limit, **how)
        return back(experts(jax.tree.map(there, arrays), weights, got))

    def summed(step, like, sizes):
        """The sum over the rounds of a tree of step(round)."""
        longest = lax.pmax(jnp.max(jnp.sum(sizes.reshape(lax.axis_size(how["axis"]), -1), axis=1)), _manual_axes())
        add = lambda index, total: jax.tree.map(jnp.add, total, step(index))
        return lax.fori_loop(0, (longest + limit - 1) // limit, add, jax.tree.map(jnp.zeros_like, like))

    @jax.custom_vjp
    def run(given, fixed, sizes):
        like = jax.eval_shape(lambda: one(0, given, fixed, sizes))
        return summed(lambda index: one(index, given, fixed, sizes), like, sizes)

    def backward(residuals, gradient):
        given, fixed, sizes = residuals
        pull = lambda index: jax.vjp(lambda given: one(index, given, fixed, sizes), given)[1](gradient)[0]
        return summed(pull, given, sizes), None, None

    run.defvjp(lambda *args: (run(*args), args), backward)
    return run(given, fixed, sizes)


def _manual_axes():
    """The axes of the `shard_map` around: all devices make as many rounds."""
    return tuple(jax.sharding.get_abstract_mesh().manual_axes)
