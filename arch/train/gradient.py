"""The gradient of a batch, in micro-batches that follow each other to save memory; on stages by their schedule.

They add up exactly: the sums of a task's terms are divided by the whole batch's weights, and the layers' losses are
means over rows, of which every micro-batch has as many.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from arch import tree
from arch.data.task import Batch, Task
from arch.layers import token_loss
from arch.tasks import next_token
from arch.train import loss_scale, pipelined, stages
from arch.train.objective import objective, totals
from arch.typing import Array, Key


def gradient_of(
    model,
    trainable,
    *,
    task: Task = next_token.Config(),
    micro_batches: int = 1,
    loss: token_loss.Config = token_loss.Config(),
) -> Callable:
    """The function (params, batch, key, scaling) -> (gradient over the trained parameters, what to log).

    `scaling` is a `loss_scale.LossScale`, or () for none. What is logged is that of `objective`, and the `loss`.

    Args:
      model: the Linen module.
      trainable: tree of booleans over the parameters.
      task: what is learned.
      micro_batches: a divisor of the batch's rows.
      loss: of a token.
    """

    def loss_of(trained, given, rows, index, parts, passing=None):
        buffers, weights, key, scaling = given
        whole, own = tree.merge(trained, buffers), jax.random.fold_in(key, index)
        how = dict(task=task, loss=loss, micro_batches=parts, passing=passing)
        value, log = objective(model, whole, rows, weights, own, **how)
        return value * scaling.scale if scaling else value, log | {"loss": value}

    plain = jax.value_and_grad(loss_of, has_aux=True)

    def gradient(params, batch: Batch, key: Key[Array, ""], scaling=()):
        trained, buffers = tree.partition(params, trainable)
        given = buffers, totals(task, batch), key, scaling
        differentiate = pipelined.value_and_grad(loss_of, model.cfg) if stages.in_turns(model.cfg) else plain
        of_rows = lambda trained, rows, index: differentiate(trained, given, rows, index, micro_batches)
        (_, log), gradients = _accumulated(of_rows, trained, batch, micro_batches)
        return loss_scale.unscaled(gradients, scaling) if scaling else gradients, log

    return gradient


def parts_of(batch: Batch, micro_batches: int) -> Batch:
    """The micro-batches of a batch, along a new first axis.

    Rows are dealt out in turn, so that every micro-batch lies on all shards of the batch.
    """
    return jax.tree.map(lambda x: x.reshape(-1, micro_batches, *x.shape[1:]).swapaxes(0, 1), batch)


def _accumulated(value_and_grad: Callable, trained, batch: Batch, micro_batches: int):
    """Loss, log and gradient, summed over micro-batches one after another."""
    if micro_batches == 1:
        return value_and_grad(trained, batch, 0)
    parts = parts_of(batch, micro_batches)
    shapes = jax.eval_shape(value_and_grad, trained, jax.tree.map(lambda x: x[0], parts), 0)
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)

    def add(sums, part):
        index, rows = part
        return jax.tree.map(jnp.add, sums, value_and_grad(trained, rows, index)), None

    ((loss, log), gradients), _ = jax.lax.scan(add, zeros, (jnp.arange(micro_batches), parts))
    return (loss, pipelined.averaged(log, micro_batches)), gradients
