"""What layers keep for the backward pass, and compute again there, in bytes of a device: nothing is compiled.

    kept      rows * what a row keeps
    a layer   rows that are computed at a time * what a row of a layer keeps without rematerialisation

What kernels read and write lies with its channels along the lanes of tiles, and fills them up (`arch.plan.lanes`).
With stages the rows at a time are those of a micro-batch of the pipeline; GPipe keeps what its layers do of all ticks,
and 1F1B what entered a stage of so many micro-batches as there is `room` for, and of two on their way, and of one what
a stage's layers keep (`arch.sharding.pipeline`, `arch.sharding.one_forward_one_backward`).
"""

import contextlib
import functools
import inspect
import math
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax.sharding import AbstractDevice, use_abstract_mesh

from arch.plan import lanes
from arch.plan.lowering import Run
from arch.sharding import mesh as meshes
from arch.sharding import one_forward_one_backward, pipeline
from arch.train import memory, stages
from arch.train.mixtures import stacks


def of(run: Run, kind: str) -> tuple[int, int, int]:
    """Bytes that are kept from the forward pass; of a layer that is computed again; of logits and their gradient."""
    cfg, mesh = run.cfg, run.mesh
    lengths = cfg.task.lengths(cfg.seq_len)
    predicted = lengths.pop("predicted", lengths["length"])
    rows = -(-cfg.batch_size // cfg.micro_batches // meshes.batch_shards(mesh))
    layers, plain = memory.without_remat(cfg.model)
    inner = mesh.shape["context"] * mesh.shape["tensor"]
    split, share = inner if plain == cfg.model else mesh.shape["context"], _share(run, rows, lengths["length"])
    kept = (int(share.kept * per_row(cfg.model, kind, **lengths)) + share.beside) // split
    layer = 0 if plain == cfg.model else share.turn * per_row(plain, kind, **lengths) // layers // inner
    tokens = min(share.of_loss * predicted, -(-cfg.loss.chunk_tokens // meshes.batch_shards(mesh)) or math.inf)
    return kept, layer, 2 * 4 * tokens * cfg.model.vocab_size // inner if cfg.task.predicts_text else 0


class _Share(NamedTuple):
    """Of a device's rows: those of a turn of its stage, how many rows' worth of all layers is kept, and bytes beside.

    With 1F1B a turn has its loss too, with GPipe the loss comes behind all turns.
    """

    turn: int
    of_loss: int
    kept: float
    beside: int


def _share(run: Run, rows: int, length: int) -> _Share:
    """Of so many rows of so many tokens."""
    size = pipeline.stages(run.mesh)
    if size == 1:
        return _Share(rows, rows, rows, 0)
    turn = rows * size // min(layers.pipeline.parts(size) for layers in stacks(run.cfg.model).values())
    if not stages.in_turns(run.cfg.model, run.mesh):
        return _Share(turn, rows, rows / (1 - stages.bubble(run.cfg.model, run.mesh)), 0)
    entered = turn * length * run.cfg.model.embed_dim * width(run)
    return _Share(turn, turn, turn / size, (one_forward_one_backward.room(size) + 2) * entered)


@functools.lru_cache(maxsize=8)
def per_row(model_cfg: Any, kind: str, **lengths: int) -> int:
    """Bytes of a row that the forward pass keeps."""
    with on(kind):
        how = dict(times=lanes.times) if tiled(kind) else {}
        return memory.kept.__wrapped__(model_cfg, **lengths, **how)[0]


def on(kind: str) -> contextlib.AbstractContextManager:
    """A scope with the kernels of these devices, which need not be here, and their blocks, where they are TPUs."""
    return use_abstract_mesh(_one(kind)) if tiled(kind) else contextlib.nullcontext()


def _one(kind: str) -> Any:
    """A mesh of one such device."""
    known = dict(device_kind=kind, num_cores=None, platform="tpu")
    device = AbstractDevice(**{name: known[name] for name in inspect.signature(AbstractDevice).parameters})
    return meshes.abstract(meshes.Config(data=1), 1).update(abstract_device=device)


def width(run: Run) -> int:
    """Bytes of a number of the arithmetic."""
    return jnp.dtype(getattr(run.cfg.model, "dtype", "float32")).itemsize


def tiled(kind: str) -> bool:
    """Whether arrays lie in tiles there."""
    return kind.startswith("TPU")
