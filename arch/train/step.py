"""One optimizer step, and one evaluation batch: pure functions of values, compiled once.

Micro-batches add up exactly: the sums of a task's terms are divided by the whole batch's weights, and the layers'
losses are means over rows, of which every micro-batch has as many.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from arch import tree
from arch.data.task import Batch, Task
from arch.layers import token_loss
from arch.tasks import next_token
from arch.train import ema, loss_scale
from arch.train.objective import count_bytes, means, objective, totals
from arch.train.state import TrainState
from arch.typing import Array, Key


def train_step(
    model,
    model_cfg,
    optimizer: optax.GradientTransformation,
    trainable,
    token_bytes,
    *,
    task: Task = next_token.Config(),
    micro_batches: int = 1,
    loss: token_loss.Config = token_loss.Config(),
    ema_decay: float = 0.0,
    growth_steps: int = loss_scale.Config().growth_steps,
):
    """The function (state, batch, key) -> (state, metrics); donate the state.

    Args:
      model: the Linen module.
      model_cfg: its config, whose `update` gives the non-trained leaves their next values.
      optimizer: over the trained parameters.
      trainable: tree of booleans over the parameters.
      token_bytes: [v] bytes of text that each id stands for.
      task: what is learned.
      micro_batches: how many parts of the batch follow each other, to save memory; a divisor of its rows.
      loss: of a token.
      ema_decay: of the moving average, where the state keeps one.
      growth_steps: after which a loss scale grows, where the state has one.

    Returns:
      The step. Its metrics: `loss` (the objective), those of `objective.means`, `gradient_norm`, `parameter_norm`, the
      layers' own losses by name, and `stats`, the layers' statistics by path. With loss scaling also `loss_scale`, that
      of this step, and `skipped_steps` so far; a skipped step's gradient norm is 0.
    """

    def step(state: TrainState, batch: Batch, key: Key[Array, ""]) -> tuple[TrainState, dict]:
        key = jax.random.fold_in(key, state.step)
        trained, buffers = tree.partition(state.params, trainable)
        weights = totals(task, batch)
        scaling = state.loss_scale

        def loss_of(trained, part, index):
            part_key = jax.random.fold_in(key, index)
            whole = tree.merge(trained, buffers)
            how = dict(task=task, loss=loss, micro_batches=micro_batches)
            value, log = objective(model, whole, part, weights, part_key, **how)
            return value * scaling.scale if scaling else value, log | {"loss": value}

        (_, log), gradients = _accumulated(jax.value_and_grad(loss_of, has_aux=True), trained, batch, micro_batches)
        if scaling:
            gradients = loss_scale.unscaled(gradients, scaling)
        norm = optax.tree.norm(gradients)
        updates, opt_state = optimizer.update(gradients, state.opt_state, trained)
        trained = optax.apply_updates(trained, updates)
        params = tree.merge(trained, _next_buffers(model_cfg, buffers, log["stats"], state.params))
        if scaling:
            new, old = (params, opt_state), (state.params, state.opt_state)
            params, opt_state = loss_scale.kept(jnp.isfinite(norm), new, old)
        metrics = {
            "loss": log["loss"],
            **means(task, log["terms"], weights, count_bytes(task, batch, token_bytes)),
            "gradient_norm": norm,
            "parameter_norm": optax.tree.norm(tree.partition(params, trainable)[0]),
            "stats": log["stats"],
        } | log["losses"]
        if scaling:
            scaling, more = loss_scale.after(scaling, norm, growth_steps)
            metrics |= more
        average = ema.after(state.average, params, trainable, ema_decay) if state.average else {}
        return TrainState(state.step + 1, params, opt_state, average, scaling), metrics

    return step


def eval_step(
    model, token_bytes, *, task: Task = next_token.Config(), loss: token_loss.Config = token_loss.Config()
) -> Callable:
    """The function (params, batch) -> sums over the batch: `nats`, `correct`, `weight` of each of `terms`; `bytes`."""

    def step(params, batch: Batch) -> dict:
        weights = task.weights(batch)
        _, log = objective(model, params, batch, dict.fromkeys(weights, 1.0), None, task=task, loss=loss)
        terms = {
            name: {"nats": sums.nats, "correct": sums.correct, "weight": weights[name]}
            for name, sums in log["terms"].items()
        }
        return {"terms": terms, "bytes": count_bytes(task, batch, token_bytes)}

    return step


def _accumulated(value_and_grad: Callable, trained, batch: Batch, micro_batches: int):
    """Loss, log and gradient, summed over micro-batches one after another.

    Rows are dealt out in turn, so that every micro-batch lies on all shards of the batch.
    """
    if micro_batches == 1:
        return value_and_grad(trained, batch, 0)
    parts = jax.tree.map(lambda x: x.reshape(-1, micro_batches, *x.shape[1:]).swapaxes(0, 1), batch)
    shapes = jax.eval_shape(value_and_grad, trained, jax.tree.map(lambda x: x[0], parts), 0)
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)

    def add(sums, part):
        index, rows = part
        return jax.tree.map(jnp.add, sums, value_and_grad(trained, rows, index)), None

    ((loss, log), gradients), _ = jax.lax.scan(add, zeros, (jnp.arange(micro_batches), parts))
    mean = jax.tree.map(lambda x: x / micro_batches, {"losses": log["losses"], "stats": log["stats"]})
    return (loss, log | mean), gradients


def _next_buffers(model_cfg, buffers: tree.Tree, stats: dict, like: tree.Tree) -> tree.Tree:
    """The non-trained leaves after this step, by their sublayers' own rule."""
    if not buffers:
        return buffers
    return tree.stack(model_cfg.update(tree.unstack(buffers), stats), like)
