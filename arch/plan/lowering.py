"""The programs of a run, traced for a mesh whose devices need not be here: the train step and a step of decoding."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from arch.layers.contract import Context
from arch.models import decoder
from arch.sharding import mesh as meshes
from arch.train import bad_batch, experiment, stages
from arch.train import state as states
from arch.train.program import jitted
from arch.weights import target


@dataclasses.dataclass(frozen=True)
class Run:
    """A run that is planned.

    Attributes:
      cfg: all lengths in steps.
      mesh: of devices, or abstract.
      model: the Linen module.
      optimizer: over the trained parameters.
      plan: of the state.
    """

    cfg: experiment.Config
    mesh: Any
    model: Any
    optimizer: Any
    plan: states.Plan


def prepare(cfg: experiment.Config, mesh: Any) -> Run:
    """Checks and traces a run on a mesh.

    Raises:
      ValueError: the config contradicts itself, or the mesh does not divide the batch, or its rows.
    """
    cfg.task.must_suit(cfg.model, seq_len=cfg.seq_len)
    rows, shards = cfg.batch_size // cfg.micro_batches, meshes.batch_shards(mesh)
    if rows % shards:
        text = f"batch_size={cfg.batch_size} / micro_batches={cfg.micro_batches} = {rows} rows"
        raise ValueError(f"{text} must be a multiple of {meshes.BATCH_SHARDS} = {shards}")
    stages.must_divide(cfg.model, rows, mesh)
    meshes.must_split(cfg.seq_len, mesh)
    cfg = cfg.resolve(lambda: cfg.batch_size)  # epochs, if there are some, change no shape
    model = cfg.model.make()
    optimizer = cfg.optimizer.make(cfg.total_steps, lambda: states.axes(model))
    return Run(cfg, mesh, model, optimizer, states.plan(model, optimizer, mesh, states.beside(cfg)))


def batch(cfg: experiment.Config, mesh: Mesh) -> dict[str, jax.ShapeDtypeStruct]:
    """The global batch of a run, as it lies on the mesh."""
    out = {}
    for name, (shape, dtype) in cfg.task.fields(cfg.seq_len).items():
        shape = (cfg.batch_size, *shape)
        where = meshes.sharding(("batch", "sequence", None)[: len(shape)], shape, mesh)
        out[name] = jax.ShapeDtypeStruct(shape, dtype, sharding=where)
    return out


def train(run: Run) -> jax.stages.Lowered:
    """The train step that the run compiles, but for the bytes of text in its log: no tokenizer is read here."""
    step = jitted(run.cfg, run.model, run.optimizer, run.plan, run.mesh, None)
    key = jax.eval_shape(lambda: jax.random.key(0))
    with jax.set_mesh(run.mesh):
        return step.lower(run.plan.abstract, batch(run.cfg, run.mesh), key, bad_batch.order(0, bad_batch.JUDGE))


def decodes(cfg: experiment.Config) -> bool:
    """Whether the run's model generates text by itself."""
    return isinstance(cfg.model, decoder.Config)


def decode(run: Run) -> jax.stages.Lowered:
    """One token more of as many rows as a batch has, behind `seq_len` tokens, as `arch.decode.generate` does it."""
    cfg, mesh = run.cfg, run.mesh
    params = target.canonical(cfg.model, mesh)
    rows, length = cfg.batch_size, cfg.seq_len
    length = min(length, cfg.model.max_length or length)
    cache = jax.eval_shape(lambda: cfg.model.init_cache(rows, length))
    cache = jax.tree.map(lambda leaf: _by_rows(leaf, mesh), cache)
    ids = _by_rows(jax.ShapeDtypeStruct((rows,), jnp.int32), mesh)

    def step(params, cache, token, position):
        out = run.model.apply({"params": params}, token[:, None], Context(positions=position[:, None]), cache)
        return out.cache, jnp.argmax(out.x[:, 0], axis=-1).astype(jnp.int32), position + 1

    where = jax.tree.map(lambda leaf: leaf.sharding, (cache, ids, ids))
    with jax.set_mesh(mesh):
        return jax.jit(step, donate_argnums=1, out_shardings=where).lower(params, cache, ids, ids)


def _by_rows(leaf: jax.ShapeDtypeStruct, mesh: Mesh) -> jax.ShapeDtypeStruct:
    """Split along its first axis."""
    where = meshes.sharding(("batch", *[None] * (leaf.ndim - 1)), leaf.shape, mesh) if leaf.ndim else None
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where or NamedSharding(mesh, PartitionSpec()))
