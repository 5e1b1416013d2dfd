"""What a step of training needs of a device's memory, told before anything is compiled or allocated.

    parameters + optimizer + average     what the state holds, as its rules place it: exact
    gradients                            of each trained parameter one float32; two where micro-batches add them up
    activations                          what the traced forward pass of a micro-batch keeps for the backward pass, and
                                         the more of: the logits and their gradient; what a layer computes again and
                                         its gradient

Activations are an estimate: the compiler fuses and reuses, and a mesh may split more of them than the rows, which alone
are taken as split here. Tests hold gradients and activations to the temporary memory of compiled programs of tiny
models, within a factor of 1.5.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from arch import tree
from arch.layers.contract import Context, positions_of
from arch.models import encoder_decoder
from arch.train import experiment, offload
from arch.train import state as states

PROBES = 2048, 4096
"""Rows of the two traced batches: what differs between them is of rows."""


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes of one device."""

    parameters: int
    optimizer: int
    average: int
    gradients: int
    activations: int

    @property
    def temporary(self) -> int:
        """What only a step needs."""
        return self.gradients + self.activations

    @property
    def total(self) -> int:
        """All of it."""
        return self.parameters + self.optimizer + self.average + self.temporary


def estimate(cfg: experiment.Config, plan: states.Plan, *, batch_shards: int, weight_shards: int) -> Memory:
    """The memory of a run's training step.

    Args:
      cfg: of the run.
      plan: of its state, on a mesh or an abstract one.
      batch_shards: into how many parts the mesh splits the rows.
      weight_shards: into how many the weights.
    """
    state = plan.abstract
    trained, _ = tree.partition(state.params, plan.trainable)
    rows = -(-cfg.batch_size // cfg.micro_batches // batch_shards)
    lengths = cfg.task.lengths(cfg.seq_len)
    predicted = lengths.pop("predicted", lengths["length"])

    def all_kept(model_cfg):
        per_row, of_weights = kept(model_cfg, **lengths)
        return rows * per_row + of_weights // weight_shards

    layers, plain = without_remat(cfg.model)
    a_layer = 0 if plain == cfg.model else 2 * all_kept(plain) // layers
    tokens = min(rows * predicted, cfg.loss.chunk_tokens or math.inf)
    logits = 2 * 4 * tokens * cfg.model.vocab_size if cfg.task.predicts_text else 0
    return Memory(
        parameters=size(state.params),
        optimizer=size(state.opt_state),
        average=size(state.average),
        gradients=size(trained) * (2 if cfg.micro_batches > 1 else 1),
        activations=all_kept(cfg.model) + max(a_layer, logits),
    )


def size(state: Any) -> int:
    """Bytes of one device's part of arrays with shardings, but for those in the host's memory."""
    leaves = [leaf for leaf in jax.tree.leaves(state) if leaf.sharding.memory_kind != offload.HOST]
    return sum(math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf in leaves)


@functools.lru_cache(maxsize=8)
def kept(
    model_cfg: Any, length: int, source_length: int = 0, *, times: Callable = lambda jaxpr: lambda var: 1
) -> tuple[int, int]:
    """Bytes that the forward pass keeps for the backward pass: of each row, and of the weights (in another dtype).

    Args:
      model_cfg: of the model.
      length: tokens of a row.
      source_length: of an encoder's.
      times: of the traced program, how often its own bytes an array takes.
    """
    model = model_cfg.make()
    params = states.shapes(model)

    def forward(params, rows, key):
        contexts = [Context(positions_of(row), valid=row >= 0, key=key, deterministic=False) for row in rows]
        return model.apply({"params": params}, *rows, *contexts, method="hidden").x

    def residuals(params, rows, key):
        return jax.vjp(lambda params: forward(params, rows, key), params)[1]

    def of(count):
        rows = [jax.ShapeDtypeStruct((count, size), jnp.int32) for size in (source_length, length) if size]
        traced = jax.make_jaxpr(residuals)(params, rows, jax.eval_shape(lambda: jax.random.key(0))).jaxpr
        given = set(map(id, traced.invars))
        kept = {id(var): var for var in traced.outvars if not hasattr(var, "val") and id(var) not in given}
        often = times(traced)
        return sum(var.aval.size * var.aval.dtype.itemsize * often(var) for var in kept.values())

    few, many = map(of, PROBES)
    of_row = int(many - few) // (PROBES[1] - PROBES[0])
    return of_row, int(few) - PROBES[0] * of_row


def _is_pair(model_cfg: Any) -> bool:
    return isinstance(model_cfg, encoder_decoder.Config)


def without_remat(model_cfg: Any) -> tuple[int, Any]:
    """The number of layers, and the model that computes nothing again."""
    names = ("encoder", "decoder") if _is_pair(model_cfg) else ("layers",)
    stacks = {name: getattr(model_cfg, name) for name in names}
    plain = {name: stack.replace(remat="none") for name, stack in stacks.items()}
    return sum(len(stack.blocks) for stack in stacks.values()), model_cfg.replace(**plain)
