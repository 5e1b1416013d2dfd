"""What a step takes of each device, reckoned from the config and the mesh alone: nothing is compiled.

    memory     weights, optimizer, average: exact, on TPUs as they lie in tiles (`arch.plan.tiles`); gradients,
               activations and gathered weights: of the moment that holds most (`arch.plan.held`)
    FLOPs      passes * what the model executes forward; 3 passes, one more where everything is computed again, and one
               more by 1F1B; what attention computes anew in the backward pass; and what stages execute that idle
               (`arch.sharding.pipeline`)
    traffic    weights once a pass, the optimizer's arrays, and what the layers would keep, 2 times a pass
    messages   by axis: weights gathered for the forward and the backward pass and their gradients scattered, in the
               dtype of the arithmetic; gradients summed over `data` in float32; a sublayer's result and its gradient
               summed over `tensor`; rows to their experts and back

It ranks meshes before some are compiled, and is all that is told of GPUs. `benchmarks/results/closed_form.json` has its
memory beside what libtpu assigns, of configs that were looked at while it was written and of others.
"""

import dataclasses
import math
from typing import Any

import jax
from jax.sharding import AbstractMesh, Mesh

from arch.layers import stack
from arch.plan import activations, held
from arch.plan.lowering import Run
from arch.plan.topology import Topology
from arch.sharding import mesh as meshes
from arch.train import memory, stages
from arch.train.mixtures import mixtures

UPDATE = 7
"""Float32 arrays as large as the weights that AdamW's step reads and writes: 4 and 3."""
TOUCHED = 2
"""How often a pass reads or writes what the layers would keep."""


@dataclasses.dataclass(frozen=True)
class Estimate:
    """Of a device and a step.

    Attributes:
      memory: bytes of its parts, but for `gathered`.
      gathered: bytes of weights in another form, and of those put together from their shards, with gradients.
      flops: executed.
      traffic: bytes between the chip and its memory.
      received: bytes that come from other devices, by the axes that they cross.
      required: FLOPs that the result requires, of all devices together.
    """

    memory: memory.Memory
    gathered: int
    flops: float
    traffic: float
    received: dict[str, float]
    required: float

    @property
    def total(self) -> int:
        """Bytes of memory."""
        return self.memory.total + self.gathered

    def seconds(self, topology: Topology) -> dict[str, float]:
        """Of the step, and of each of the things that it waits for, as `arch.plan.roofline` names them."""
        chip, received = topology.chip, dict(self.received)
        outside = received.pop("data", 0.0) if topology.slices > 1 else 0.0
        terms = dict(work_s=self.flops / chip.peak, memory_s=self.traffic / chip.memory)
        terms["links_s"] = sum(received.values()) / chip.links
        if topology.slices > 1:
            terms["between_s"] = outside / chip.between
        return terms | dict(step_s=max(terms.values()))


def estimate(run: Run, kind: str = "") -> Estimate:
    """That of a run on its mesh, abstract or not.

    Args:
      run: that is planned.
      kind: of its devices, as JAX calls them: on TPUs arrays lie in tiles.

    Raises:
      UnknownFlops: a part of the model does not say its FLOPs.
    """
    cfg, mesh, weights = run.cfg, run.mesh, held.weights(run, kind)
    lengths = cfg.task.lengths(cfg.seq_len)
    with activations.on(kind):
        flops = cfg.model.flops(**lengths)
    lengths.pop("predicted", None)
    moment, state = held.peak(run, kind), run.plan.abstract
    size = lambda leaves: sum(held.size_of(leaf, kind) for leaf in jax.tree.leaves(leaves))
    parts = dict(parameters=size(state.params), optimizer=size(state.opt_state), average=size(state.average))
    parts = memory.Memory(**parts, gradients=moment.gradients, activations=moment.activations)
    rows, again = cfg.batch_size / meshes.batch_shards(mesh), passes(cfg.model, mesh)
    alone = math.prod(mesh.shape[axis] for axis in ("context", "tensor"))
    touched = rows * activations.per_row(memory.without_remat(cfg.model)[1], kind, **lengths) / alone
    busy = 1 - stages.bubble(cfg.model, mesh)
    read = cfg.micro_batches * sum(weight.size for weight in weights)
    return Estimate(
        memory=parts,
        gathered=moment.gathered,
        flops=(again * flops.executed + flops.anew) * cfg.batch_size / math.prod(mesh.shape.values()) / busy,
        traffic=again * (read + TOUCHED * touched) + UPDATE * memory.size(state.params),
        received=_received(run, weights, rows * sum(lengths.values()) / mesh.shape["context"]),
        required=3 * flops.required * cfg.batch_size,
    )


def passes(model_cfg: Any, mesh: Mesh | AbstractMesh) -> int:
    """Forward passes that a step of training costs: 1F1B goes through each stage once more."""
    again = any(layers.remat in ("full", "offload") for layers in _stacks(model_cfg))
    return 3 + again + stages.in_turns(model_cfg, mesh)


def _stacks(model_cfg: Any) -> list[stack.Config]:
    values = (getattr(model_cfg, field.name) for field in dataclasses.fields(model_cfg))
    return [value for value in values if isinstance(value, stack.Config)]


def _received(run: Run, weights: list[held.Weight], tokens: float) -> dict[str, float]:
    """By axis, `fsdp` standing for all that gather weights; `tokens` are those of a device."""
    cfg, sizes, out = run.cfg, run.mesh.shape, {}
    out["fsdp"] = sum(3 * cfg.micro_batches * each.size * (each.ways - 1) / each.ways for each in weights)
    stream, again = tokens * cfg.model.embed_dim * activations.width(run), passes(cfg.model, run.mesh) - 1
    if (n := sizes["data"]) > 1:
        leaves = jax.tree.leaves(run.plan.abstract.params)
        own = sum(4 * math.prod(leaf.sharding.shard_shape(leaf.shape)) for leaf in leaves)
        out["data"] = 2 * own * (n - 1) / n
    if (n := sizes["tensor"]) > 1:
        sublayers = sum(len(layer.sublayers) for layers in _stacks(cfg.model) for layer in layers.blocks)
        out["tensor"] = 2 * again * sublayers * stream * (n - 1) / n
    if (n := sizes["expert"]) > 1:
        pairs = sum(part.top_k for _, part in mixtures(cfg.model))
        out["expert"] = 2 * again * pairs * stream * (n - 1) / n
    return {axis: size for axis, size in out.items() if size}
