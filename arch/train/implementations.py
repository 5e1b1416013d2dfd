"""Which implementation of its operations each sublayer of a run takes: one table, for the log and `--mode=describe`.

It is told by the operations themselves as the model is traced, so that it cannot differ from what runs.
"""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, use_abstract_mesh

from arch.kernels.implementations import Told, told
from arch.layers import stack
from arch.layers.contract import Context, positions_of
from arch.sharding import mesh as meshes
from arch.train import stages
from arch.train import state as states

ONLY = "xla"
"""What a sublayer takes that tells nothing: it has no other."""


def table(model_cfg: Any, found: Iterable[tuple[str, str, str]]) -> list[tuple[str, str, str]]:
    """(sublayer, operation, implementation) of all that the model's stacks hold; '' for the operations of `ONLY`.

    Args:
      model_cfg: of the model.
      found: what was told while it was traced.
    """
    stacks = (getattr(model_cfg, field.name) for field in dataclasses.fields(model_cfg))
    blocks = [layer for layers in stacks if isinstance(layers, stack.Config) for layer in layers.blocks]
    labels = dict.fromkeys(label for layer in blocks for label in layer.labels)
    rows = list(found)
    return [row for label in labels for row in [row for row in rows if row[0] == label] or [(label, "", ONLY)]]


def lines(rows: Iterable[tuple[str, str, str]], device_kind: str) -> list[str]:
    """The table for a log: "moe: grouped matmul by 'mosaic' on NVIDIA H200"."""
    return [f"{label}: {what or 'all'} by {by!r} on {device_kind}" for label, what, by in rows]


def traced(model_cfg: Any, lengths: Mapping[str, int], mesh: AbstractMesh) -> Told:
    """What is told while a forward pass of training is traced, for a mesh that need not be here.

    Args:
      model_cfg: of the model.
      lengths: tokens of a row, `length` and, of a pair, `source_length`.
      mesh: on which it would run, one row of the batch on each part that the batch is split into. Its devices are those
        of its `abstract_device`, or of this process.
    """
    model, count = stages.one_each(model_cfg).make(), meshes.batch_shards(mesh)
    sizes = [lengths[name] for name in ("source_length", "length") if lengths.get(name)]
    rows = [jax.ShapeDtypeStruct((count, size), jnp.int32) for size in sizes]

    def forward(params, rows, key):
        contexts = [Context(positions_of(row), valid=row >= 0, key=key, deterministic=False) for row in rows]
        return model.apply({"params": params}, *rows, *contexts, method="hidden").x

    params = states.shapes(model)  # of a trace whose rows are others
    with use_abstract_mesh(mesh), told() as found:
        jax.eval_shape(forward, params, rows, jax.eval_shape(lambda: jax.random.key(0)))
    return found
