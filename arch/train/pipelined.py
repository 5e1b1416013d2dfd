"""The gradient of a batch by 1F1B: the objective of each micro-batch, cut where the repeated layers begin and end.

    enter    what the objective computes up to the repeated layers: embedding, prefix
    leave    the rest of it, from what came out behind them: suffix, norm, logits, loss

Each runs the objective with another thing in the place of the repeated layers, and what it does not need is never
computed. From stage to stage goes the residual stream, with all that the layers read of its rows, and with the losses
and statistics of the layers so far. A micro-batch is to the objective what one of `gradient_of` is: its noise is its
own, and its losses and statistics count for as much as it has rows.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from arch import tree
from arch.data.task import Batch
from arch.layers.contract import Aux, Context
from arch.sharding import one_forward_one_backward, pipeline
from arch.train import stages
from arch.train.mixtures import stacks


class Cut(NamedTuple):
    """The repeated layers as the stack has them.

    period: through one period, as in `arch.layers.staged`.
    weights: [repeats ...] of the layers.
    carry: (x, shared) that enters them.
    context: that they read.
    """

    period: Callable
    weights: Any
    carry: tuple[Any, dict]
    context: Context

    def through(self, first, busy=True) -> tuple[tuple[Any, dict], tuple[dict, dict]]:
        """The carry behind the layers, the first of which has this number, and their [repeats ...] (losses, stats).

        Gradients of the weights are 0 unless busy.
        """

        def step(carry, place):
            weights = pipeline.Stacked(self.weights, place, jnp.bool_(busy))
            carry, aux = self.period(weights, first + place, carry, self.context)
            return carry, (aux.losses, aux.stats)

        return lax.scan(step, self.carry, jnp.arange(jax.tree.leaves(self.weights)[0].shape[0]))


class Passed(NamedTuple):
    """What goes from stage to stage.

    carry: (x, shared).
    rows: the leaves of the context that the layers read.
    key: the data of the context's, if it has one.
    sums: [repeats ...] (losses, stats) of the layers, zeros for those that come.
    """

    carry: tuple[Any, dict]
    rows: list
    key: Any
    sums: tuple[dict, dict]


def value_and_grad(loss_of: Callable, model_cfg: Any) -> Callable:
    """As `jax.value_and_grad(loss_of, has_aux=True)`, by stages.

    Args:
      loss_of: loss_of(trained, given, batch, index, parts, passing) -> (value, log): what some rows add to the loss,
        these being `index` of so many parts of all, with this in the place of the repeated layers.
      model_cfg: of a model of one stack.

    Returns:
      The function (trained, given, batch, index, parts) -> ((value, log), gradient), where `given` starts with the
      buffers. It raises ValueError where layers or rows do not divide.
    """
    (name, stack), *_ = stacks(model_cfg).items()

    def function(trained, given, batch: Batch, index, parts: int):
        stages.must_divide(model_cfg, len(jax.tree.leaves(batch)[0]), jax.sharding.get_abstract_mesh())
        count = stack.pipeline.parts(pipeline.stages())
        batches = jax.tree.map(lambda leaf: pipeline.micro_batches(leaf, stack.pipeline), batch)
        of_layers = lambda leaves: {path: stack.scan_name in path.split("/") for path in tree.paths(leaves)}
        apart = lambda leaves: tree.partition(leaves, tree.from_paths(of_layers(leaves)))
        (layers, rest), (fixed, _) = apart(trained), apart(given[0])

        def loss(rest, m, passing):
            part = pipeline.at(batches, m)
            return loss_of(tree.merge(layers, rest), given, part, index * count + m, parts * count, passing)

        def cut(rest, m) -> Cut:
            found = []
            loss(rest, m, lambda *repeated: (found.append(Cut(*repeated)) or found[0].carry, Aux()))
            return found[0]

        def enter(rest, m) -> Passed:
            here = cut(rest, m)
            _, like = jax.eval_shape(here.through, 0)
            zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), like)
            key = here.context.key
            return Passed(here.carry, _rows(here.context)[0], None if key is None else jax.random.key_data(key), zeros)

        period, _, _, like = cut(rest, 0)
        _, of_rows = _rows(like)

        def through(layers, fixed, shared, stage, passed: Passed, busy) -> Passed:
            key = None if like.key is None else jax.random.wrap_key_data(passed.key, impl=jax.random.key_impl(like.key))
            context = dataclasses.replace(of_rows.unflatten(passed.rows), key=key, parameters=shared)
            weights = tree.merge(layers, fixed)[name][stack.scan_name]
            first = stage * jax.tree.leaves(weights)[0].shape[0]
            carry, own = Cut(period, weights, passed.carry, context).through(first, busy)
            put = lambda leaf, new: lax.dynamic_update_slice_in_dim(leaf, new, first, 0)
            return passed._replace(carry=carry, sums=jax.tree.map(put, passed.sums, own))

        def leave(rest, m, passed: Passed):
            return loss(rest, m, lambda *_: (passed.carry, Aux(*passed.sums)))

        (value, log), gradients = one_forward_one_backward.value_and_grad(
            *(enter, through, leave, layers, fixed, rest),
            alike=lambda rest: cut(rest, 0).context.parameters,
            cfg=stack.pipeline,
        )
        return (value, averaged(log, count)), tree.merge(*gradients)

    return function


def _rows(context: Context) -> tuple[list, Any]:
    """What a context has of its rows: leaves, and how they are put together."""
    return jax.tree.flatten(dataclasses.replace(context, key=None, parameters={}, shared={}))


def averaged(log: dict, parts: int) -> dict:
    """A log that was summed over parts of equally many rows: losses and statistics are means over rows."""
    return log | jax.tree.map(lambda x: x / parts, {"losses": log["losses"], "stats": log["stats"]})
