"""What a training step descends, and what an evaluation adds up: the terms of the run's task (`arch.data.task`).

    loss = sum over terms of (sum_i w_i loss_i / sum_i w_i)  +  sum of the layers' own losses
"""

import dataclasses
import math
from collections.abc import Callable, Mapping

import jax.numpy as jnp

from arch.data.task import Batch, Task
from arch.layers import token_loss
from arch.layers.contract import Context, Routes
from arch.ops.routing.replay import RECORDED
from arch.tasks import next_token
from arch.typing import Array, Float, Int, Key

CONTEXT = ("positions", "segment_ids", "valid", "token_types")
"""Fields of a batch that the layers may read."""


def objective(
    model,
    params,
    batch: Batch,
    totals: Mapping[str, Array | float],
    key: Key[Array, ""] | None,
    *,
    task: Task = next_token.Config(),
    loss: token_loss.Config = token_loss.Config(),
    micro_batches: int = 1,
    watched: Int[Array, "n"] | None = None,
    passing: Callable | None = None,
) -> tuple[Array, dict]:
    """The part of the loss that these rows add, and what to log of it.

    Args:
      model: a Linen module.
      params: its parameters.
      batch: the arrays of the task's samples, each with rows as its first axis.
      totals: the weight of each term over all rows of the optimizer step.
      key: for dropout; None to be deterministic.
      task: whose terms.
      loss: of a token.
      micro_batches: as many parts as this one make the whole batch.
      watched: as in `Context`.
      passing: as in `Context`.

    Returns:
      The value, and `terms` (each term's `token_loss.Sums`), `losses` (the layers' own) and `stats`.
    """
    context = dataclasses.replace(context_of(batch, key), watched=watched, passing=passing)
    terms, aux = model.apply({"params": params}, batch, context, loss, method=task.terms)
    value = sum(sums.loss / totals[name] for name, sums in terms.items()) + sum(aux.losses.values()) / micro_batches
    return value, {"terms": terms, "losses": aux.losses, "stats": aux.stats}


def context_of(batch: Batch, key: Key[Array, ""] | None) -> Context:
    """What the layers may read of a batch.

    Args:
      batch: of its arrays those called as CONTEXT has them, and as RECORDED the routes to replay.
      key: for dropout; None to be deterministic.
    """
    fields = {name: batch[name] for name in CONTEXT if name in batch}
    routes = Routes(*(batch[name] for name in RECORDED)) if RECORDED[0] in batch else None
    return Context(**fields, routes=routes, key=key, deterministic=key is None)


def totals(task: Task, batch: Batch) -> dict[str, Array]:
    """The weight of each term over a batch, at least 1: what divides its sums."""
    return {name: jnp.maximum(weight, 1.0) for name, weight in task.weights(batch).items()}


def count_bytes(task: Task, batch: Batch, token_bytes) -> Float[Array, ""] | None:
    """Bytes of text that the batch's targets stand for, as a float; None where they are no text, or it is not known."""
    if not task.predicts_text or token_bytes is None:
        return None
    return jnp.sum(jnp.asarray(token_bytes, jnp.float32)[batch["targets"]] * batch["weights"])


def means(task: Task, terms: Mapping[str, token_loss.Sums], totals: Mapping[str, Array], num_bytes) -> dict[str, Array]:
    """What to log of the terms of a step.

    Returns:
      `accuracy` of the main term, where that is text also `nats_per_token`, and `bits_per_byte` where its bytes are
      known; of each other term `<name>_nats` and `<name>_accuracy`.
    """
    nats = {name: sums.nats / totals[name] for name, sums in terms.items()}
    accuracy = {name: sums.correct / totals[name] for name, sums in terms.items()}
    main = task.main_term
    out = {"accuracy": accuracy[main]}
    if task.predicts_text:
        out["nats_per_token"] = nats[main]
        if num_bytes is not None:
            out["bits_per_byte"] = terms[main].nats / jnp.log(2.0) / jnp.maximum(num_bytes, 1.0)
    for name in sorted(terms.keys() - {main}):
        out |= {f"{name}_nats": nats[name], f"{name}_accuracy": accuracy[name]}
    return out


def summary(task: Task, sums: dict) -> dict[str, float]:
    """The means that an evaluation's sums (of `step.eval_step`) are.

    Returns:
      `loss` in nats, that of all terms together, and `accuracy` of the main one; where that is text its `ppl`
      (perplexity), and `bits_per_byte` where its bytes are known; of each other term `<name>_loss` and
      `<name>_accuracy`.
    """
    terms, num_bytes = sums["terms"], sums["bytes"]
    loss = {name: term["nats"] / max(term["weight"], 1.0) for name, term in terms.items()}
    accuracy = {name: term["correct"] / max(term["weight"], 1.0) for name, term in terms.items()}
    main = task.main_term
    out = {"loss": sum(loss.values()), "accuracy": accuracy[main]}
    if task.predicts_text:
        out["ppl"] = math.inf if loss[main] > 700 else math.exp(loss[main])
        if num_bytes is not None:
            out["bits_per_byte"] = terms[main]["nats"] / math.log(2.0) / max(num_bytes, 1.0)
    for name in sorted(terms.keys() - {main}):
        out |= {f"{name}_loss": loss[name], f"{name}_accuracy": accuracy[name]}
    return out
