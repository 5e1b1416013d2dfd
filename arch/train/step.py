"""One optimizer step, and one evaluation batch: pure functions of values, compiled once."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from arch import tree
from arch.data.task import Batch, Task
from arch.layers import token_loss
from arch.ops.routing.statistics import TABLES
from arch.tasks import next_token
from arch.train import bad_batch, ema, loss_scale
from arch.train.gradient import gradient_of
from arch.train.objective import count_bytes, means, objective, totals
from arch.train.state import TrainState
from arch.typing import Array, Bool, Int, Key


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
    bad: bad_batch.Config = bad_batch.Config(),
):
    """The function (state, batch, key, order) -> (state, metrics); donate the state.

    `order` is a `bad_batch.order`; None to judge whatever batch is given. A batch that is bad, or not the state's next,
    leaves the state as it is.

    Args:
      model: the Linen module.
      model_cfg: its config, whose `update` gives the non-trained leaves their next values.
      optimizer: over the trained parameters.
      trainable: tree of booleans over the parameters.
      token_bytes: [v] bytes of text that each id stands for; None where that is not known.
      task: what is learned.
      micro_batches: how many parts of the batch follow each other, to save memory; a divisor of its rows.
      loss: of a token.
      ema_decay: of the moving average, where the state keeps one.
      growth_steps: after which a loss scale grows, where the state has one.
      bad: which batches are bad.

    Returns:
      The step. Its metrics: `loss` (the objective), those of `objective.means`, `gradient_norm`, `parameter_norm`,
      `skipped_steps` so far, the layers' own losses by name, `stats`, the layers' statistics by path, and `verdict`:
      the `reason` (of `bad_batch.REASONS`) why the batch is bad, and the two `limits` of spikes. With loss scaling also
      `loss_scale`, that of this step; the gradient norm of one that overflows is 0.
    """
    gradient = gradient_of(model, trainable, task=task, micro_batches=micro_batches, loss=loss)

    def step(state: TrainState, batch: Batch, key: Key[Array, ""], order=None) -> tuple[TrainState, dict]:
        gradients, log = gradient(state.params, batch, jax.random.fold_in(key, state.step), state.loss_scale)
        norm, overflows = optax.tree.norm(gradients), jnp.bool(False)
        if state.loss_scale:
            overflows = loss_scale.overflows(state.loss_scale, norm) & jnp.isfinite(log["loss"])
            norm = jnp.where(overflows, 0.0, norm)
        limits = bad_batch.limits(state.watch, bad)
        reason = bad_batch.reason(log["loss"], norm, limits)
        order = jnp.stack([state.step, bad_batch.JUDGE]) if order is None else order
        goes_on, judged_good = bad_batch.decide(order, state.step, reason)
        taken = judged_good & ~overflows

        params, opt_state = updated(state, gradients, log["stats"], taken)
        average = ema.after(state.average, params, trainable, ema_decay) if state.average else {}
        old = (state.params, state.opt_state, state.average)
        params, opt_state, average = _kept(taken, (params, opt_state, average), old)
        scaling = state.loss_scale and loss_scale.after(state.loss_scale, overflows, growth_steps)
        scaling = _kept(judged_good, scaling, state.loss_scale)
        watch = bad_batch.after(state.watch, log["loss"], norm, what=order[1], taken=taken, entered=~overflows)
        count, watch = _kept(goes_on, (state.step + 1, watch), (state.step, state.watch))

        parameter_norm = optax.tree.norm(tree.partition(params, trainable)[0])
        metrics = {
            "loss": log["loss"],
            **means(task, log["terms"], totals(task, batch), count_bytes(task, batch, token_bytes)),
            "gradient_norm": norm,
            "parameter_norm": parameter_norm,
            "skipped_steps": watch.skipped,
            "stats": log["stats"],
            "verdict": {"reason": bad_batch.reason_behind(reason, parameter_norm, taken), "limits": limits},
        } | log["losses"]
        if state.loss_scale:
            metrics["loss_scale"] = state.loss_scale.scale
        return TrainState(count, params, opt_state, average, scaling, watch), metrics

    def updated(state: TrainState, gradients, stats: dict, taken):
        """The parameters, trained and not, and the optimizer's state behind a step."""
        trained, buffers = tree.partition(state.params, trainable)
        update = optax.with_extra_args_support(optimizer).update
        updates, opt_state = update(gradients, state.opt_state, trained, taken=taken)
        trained = optax.apply_updates(trained, updates)
        return tree.merge(trained, _next_buffers(model_cfg, buffers, stats, state.params)), opt_state

    return step


def eval_step(
    model, token_bytes, *, task: Task = next_token.Config(), loss: token_loss.Config = token_loss.Config()
) -> Callable:
    """The function (params, batch, watched) -> sums over it.

    They are `nats`, `correct` and `weight` of each of `terms`; `bytes` or None; and `routing`: where `watched` [n] is
    not None, the `statistics.tables` of all routers by path, as sums over the rows.
    """

    def step(params, batch: Batch, watched: Int[Array, "n"] | None = None) -> dict:
        weights = task.weights(batch)
        ones = dict.fromkeys(weights, 1.0)
        _, log = objective(model, params, batch, ones, None, task=task, loss=loss, watched=watched)
        terms = {
            name: {"nats": sums.nats, "correct": sums.correct, "weight": weights[name]}
            for name, sums in log["terms"].items()
        }
        tables = {path: table for path, table in log["stats"].items() if path.rsplit("/", 1)[-1] in TABLES}
        rows = jax.tree.leaves(batch)[0].shape[0]
        routing = {path: jnp.round(table * rows) for path, table in tables.items()}  # they are numbers of tokens
        return {"terms": terms, "bytes": count_bytes(task, batch, token_bytes), "routing": routing}

    return step


def _kept(chosen: Bool[Array, ""], new, old):
    """The new values if they are chosen, else the old ones; in the host's memory they are (`arch.train.offload`)."""

    def kept(one, other):
        in_host = jax.typeof(one).memory_space == jax.memory.Space.Host
        return one if in_host else jnp.where(chosen, one, other)

    return jax.tree.map(kept, new, old)


def _next_buffers(model_cfg, buffers: tree.Tree, stats: dict, like: tree.Tree) -> tree.Tree:
    """The non-trained leaves after this step, by their sublayers' own rule."""
    if not buffers:
        return buffers
    return tree.stack(model_cfg.update(tree.unstack(buffers), stats), like)
