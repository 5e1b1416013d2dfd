"""What a step takes of each device, reckoned from the config and the mesh alone: nothing is compiled.

    memory     weights, optimizer, average: exact     gradients, activations: `arch.train.memory`
               gathered: the weights of the largest layer, put together from their shards, twice (the next comes early)
    FLOPs      passes * what the model executes forward; 3 passes, 4 where everything is computed again
    traffic    weights once a pass, the optimizer's arrays, and what the layers would keep, 2 times a pass
    messages   by axis: weights gathered for the forward and the backward pass and their gradients scattered, in the
               dtype of the arithmetic; gradients summed over `data` in float32; a sublayer's result and its gradient
               summed over `tensor`; rows to their experts and back

It ranks meshes before some are compiled, and is all that is told of GPUs. Tests hold its persistent bytes to the traced
state; `benchmarks/results/plan.json` has it beside what libtpu compiled.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from arch.layers import stack
from arch.plan.lowering import Run
from arch.plan.topology import Topology
from arch.sharding import mesh as meshes
from arch.train import memory
from arch.train.mixtures import mixtures
from arch.train.state import Plan

UPDATE = 7
"""Float32 arrays as large as the weights that AdamW's step reads and writes: 4 and 3."""
TOUCHED = 2
"""How often a pass reads or writes what the layers would keep."""


@dataclasses.dataclass(frozen=True)
class Estimate:
    """Of a device and a step.

    Attributes:
      memory: bytes of its parts, but for `gathered`.
      gathered: bytes of weights put together from their shards.
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


def estimate(run: Run) -> Estimate:
    """That of a run on its mesh, abstract or not.

    Raises:
      UnknownFlops: a part of the model does not say its FLOPs.
    """
    cfg, mesh = run.cfg, run.mesh
    sizes, lengths = dict(mesh.shape), cfg.task.lengths(cfg.seq_len)
    width = jnp.dtype(getattr(cfg.model, "dtype", "float32")).itemsize
    shards = dict(batch_shards=meshes.batch_shards(mesh), weight_shards=meshes.weight_shards(mesh))
    parts = memory.estimate(cfg, run.plan, **shards)
    again = passes(cfg.model)
    rows = cfg.batch_size / meshes.batch_shards(mesh)
    flops = cfg.model.flops(**lengths)
    whole = sum(size for _, size in _whole(run.plan, width, sizes))
    lengths.pop("predicted", None)
    _, plain = memory.without_remat(cfg.model)
    touched = rows * memory.kept(plain, **lengths)[0] / sizes["tensor"]
    return Estimate(
        memory=parts,
        gathered=_gathered(run, width, sizes),
        flops=again * flops.executed * cfg.batch_size / math.prod(sizes.values()),
        traffic=again * (whole * cfg.micro_batches + TOUCHED * touched) + UPDATE * parts.parameters,
        received=_received(run, width, sizes, rows * sum(lengths.values())),
        required=3 * flops.required * cfg.batch_size,
    )


def passes(model_cfg: Any) -> int:
    """Forward passes that a step of training costs."""
    return 4 if any(layers.remat in ("full", "offload") for layers in _stacks(model_cfg)) else 3


def _stacks(model_cfg: Any) -> list[stack.Config]:
    values = (getattr(model_cfg, field.name) for field in dataclasses.fields(model_cfg))
    return [value for value in values if isinstance(value, stack.Config)]


def _split(leaf: Any) -> set[str]:
    """The mesh axes that split an array."""
    parts = [part for part in leaf.sharding.spec if part]
    return {name for part in parts for name in ((part,) if isinstance(part, str) else part)}


def _whole(plan: Plan, width: int, sizes: Mapping[str, int]) -> list[tuple[int, int]]:
    """(ways in which it is gathered, bytes behind it) of each weight on a device, in the dtype of the arithmetic."""
    out = []
    for path, leaf in jax.tree_util.tree_flatten_with_path(plan.abstract.params)[0]:
        axes = plan.axes[jax.tree_util.keystr(path, simple=True, separator="/")]
        stays = {"tensor", *(["expert"] if "experts" in axes else [])}
        split = _split(leaf)
        ways = math.prod(sizes[name] for name in split - stays)
        out.append((ways, leaf.size * width // math.prod(sizes[name] for name in split & stays)))
    return out


def _gathered(run: Run, width: int, sizes: Mapping[str, int]) -> int:
    """Twice those of the largest layer that are gathered at all; tables stand alone."""
    layers = sum(len(layers.blocks) for layers in _stacks(run.cfg.model))
    leaves = jax.tree_util.tree_flatten_with_path(run.plan.abstract.params)[0]
    inside, tables = 0, [0]
    for (path, leaf), (ways, size) in zip(leaves, _whole(run.plan, width, sizes), strict=True):
        if ways > 1 and "layers" in run.plan.axes[jax.tree_util.keystr(path, simple=True, separator="/")]:
            inside += size // leaf.shape[0]
        elif ways > 1:
            tables.append(size)
    del layers
    return max(2 * inside, *tables)


def _received(run: Run, width: int, sizes: Mapping[str, int], tokens: float) -> dict[str, float]:
    """By axis, `fsdp` standing for all that gather weights."""
    cfg, out = run.cfg, {}
    gathers = 3 * cfg.micro_batches
    out["fsdp"] = sum(gathers * size * (ways - 1) / ways for ways, size in _whole(run.plan, width, sizes))
    stream = tokens * cfg.model.embed_dim * width
    if (n := sizes["data"]) > 1:
        out["data"] = 2 * run_gradients(run) * (n - 1) / n
    if (n := sizes["tensor"]) > 1:
        sublayers = sum(len(layer.sublayers) for layers in _stacks(cfg.model) for layer in layers.blocks)
        out["tensor"] = 2 * (passes(cfg.model) - 1) * sublayers * stream * (n - 1) / n
    if (n := sizes["expert"]) > 1:
        pairs = sum(getattr(part, "top_k", 1) for _, part in mixtures(cfg.model))
        out["expert"] = 2 * (passes(cfg.model) - 1) * pairs * stream * (n - 1) / n
    return {axis: size for axis, size in out.items() if size}


def run_gradients(run: Run) -> int:
    """Bytes of a device's gradients, in float32."""
    leaves = jax.tree.leaves(run.plan.abstract.params)
    return sum(4 * math.prod(leaf.sharding.shard_shape(leaf.shape)) for leaf in leaves)
