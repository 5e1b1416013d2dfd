"""What a step takes of each device, reckoned from the config and the mesh alone: nothing is compiled.

    memory     weights, optimizer, average: exact; gradients: of each trained weight one float32
               activations: what the forward pass keeps, and one layer's of what it computes again, or the logits'
               gathered: the weights of a period of layers, put together from their shards, twice (the next come early),
               and their gradient; of experts on other devices also the gradient in float32, and 6 hidden layers of rows
    FLOPs      passes * what the model executes forward; 3 passes, 4 where everything is computed again
    traffic    weights once a pass, the optimizer's arrays, and what the layers would keep, 2 times a pass
    messages   by axis: weights gathered for the forward and the backward pass and their gradients scattered, in the
               dtype of the arithmetic; gradients summed over `data` in float32; a sublayer's result and its gradient
               summed over `tensor`; rows to their experts and back

It ranks meshes before some are compiled, and is all that is told of GPUs. Tests hold its persistent bytes to published
numbers of parameters; `benchmarks/results/plan.json` has it beside what libtpu compiled. Temporaries are an estimate:
what is in it was chosen on three compiled steps (Mamba-2 2.7B, Mixtral 8x7B twice), and is within 12 % of them.
"""

import dataclasses
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from arch import tree
from arch.layers import stack
from arch.plan.lowering import Run
from arch.plan.topology import Topology
from arch.sharding import mesh as meshes
from arch.train import memory
from arch.train.mixtures import mixtures

UPDATE = 7
"""Float32 arrays as large as the weights that AdamW's step reads and writes: 4 and 3."""
HIDDEN = 6
"""Arrays as large as a mixture's hidden layers that a device holds: gate, up, their product, and the gradients."""
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
    cfg, mesh, weights = run.cfg, run.mesh, _weights(run)
    lengths = cfg.task.lengths(cfg.seq_len)
    flops = cfg.model.flops(**lengths)
    lengths.pop("predicted", None)
    shards = dict(batch_shards=meshes.batch_shards(mesh), weight_shards=meshes.weight_shards(mesh))
    parts = dataclasses.replace(memory.estimate(cfg, run.plan, **shards), activations=_activations(run))
    rows, again = cfg.batch_size / meshes.batch_shards(mesh), passes(cfg.model)
    alone = math.prod(mesh.shape[axis] for axis in ("context", "tensor"))
    touched = rows * memory.kept(memory.without_remat(cfg.model)[1], **lengths)[0] / alone
    read = cfg.micro_batches * sum(weight.size for weight in weights)
    return Estimate(
        memory=parts,
        gathered=_gathered(weights) + _exchanged(run, weights),
        flops=again * flops.executed * cfg.batch_size / math.prod(mesh.shape.values()),
        traffic=again * (read + TOUCHED * touched) + UPDATE * parts.parameters,
        received=_received(run, weights, rows * sum(lengths.values()) / mesh.shape["context"]),
        required=3 * flops.required * cfg.batch_size,
    )


def passes(model_cfg: Any) -> int:
    """Forward passes that a step of training costs."""
    return 4 if any(layers.remat in ("full", "offload") for layers in _stacks(model_cfg)) else 3


def _stacks(model_cfg: Any) -> list[stack.Config]:
    values = (getattr(model_cfg, field.name) for field in dataclasses.fields(model_cfg))
    return [value for value in values if isinstance(value, stack.Config)]


class _Weight(NamedTuple):
    """A weight as a device computes with it.

    layers: how many layers are stacked in it; 0 outside of scanned stacks.
    ways: among how many devices it is gathered.
    size: bytes behind that, in the dtype of the arithmetic.
    """

    layers: int
    ways: int
    size: int


def _weights(run: Run) -> list[_Weight]:
    """All weights. Experts stay where they are, and what `tensor` splits is computed with in parts."""
    sizes, out = run.mesh.shape, []
    for path, leaf in jax.tree_util.tree_flatten_with_path(run.plan.abstract.params)[0]:
        axes = run.plan.axes[jax.tree_util.keystr(path, simple=True, separator="/")]
        split = {name for part in leaf.sharding.spec if part for name in ((part,) if isinstance(part, str) else part)}
        stays = split & {"tensor", *(["expert"] if "experts" in axes else [])}
        parts = math.prod(sizes[name] for name in stays)
        ways = math.prod(sizes[name] for name in split - stays)
        layers = leaf.shape[0] if "layers" in axes else 0
        out.append(_Weight(layers, ways, leaf.size * _width(run) // parts))
    return out


def _width(run: Run) -> int:
    """Bytes of a number of the arithmetic."""
    return jnp.dtype(getattr(run.cfg.model, "dtype", "float32")).itemsize


def _gathered(weights: list[_Weight]) -> int:
    """Of one period of layers twice and its gradient, or of the largest table and its gradient."""
    some = [weight for weight in weights if weight.ways > 1]
    period = sum(weight.size // weight.layers for weight in some if weight.layers)
    return max(3 * period, *(2 * weight.size for weight in some if not weight.layers), 0)


def _exchanged(run: Run, weights: list[_Weight]) -> int:
    """Of the largest mixture whose rows travel: the float32 gradient of a device's experts, and what rows become."""
    shards, sizes = run.mesh.shape["expert"], [0]
    tokens = run.cfg.batch_size // run.cfg.micro_batches // meshes.batch_shards(run.mesh) * run.cfg.seq_len
    for _, part in mixtures(run.cfg.model) if shards > 1 else ():
        here = part.num_experts // shards
        places = min(tokens, part.chunk_tokens or tokens) * shards * min(part.top_k, here)
        if part.round_factor:
            places = math.ceil(part.round_factor * tokens * part.top_k)
        gradient = 4 * part.matrices * here * run.cfg.model.embed_dim * part.hidden_dim
        sizes.append(gradient + HIDDEN * places * part.hidden_dim * _width(run))
    return max(sizes)


def _activations(run: Run) -> int:
    """What is kept from the forward pass, and the larger of a layer's that is computed again and the logits'."""
    cfg, mesh = run.cfg, run.mesh
    lengths = cfg.task.lengths(cfg.seq_len)
    predicted = lengths.pop("predicted", lengths["length"])
    rows = -(-cfg.batch_size // cfg.micro_batches // meshes.batch_shards(mesh))
    layers, plain = memory.without_remat(cfg.model)
    per_row, of_weights = memory.kept(cfg.model, **lengths)
    of_weights = min(of_weights, _width(run) * tree.count(run.plan.abstract.params))  # traced as if on a CPU
    inner = mesh.shape["context"] * mesh.shape["tensor"]
    kept = rows * per_row // (inner if plain == cfg.model else mesh.shape["context"])
    layer = 0 if plain == cfg.model else rows * memory.kept(plain, **lengths)[0] // layers // inner
    tokens = min(rows * predicted, -(-cfg.loss.chunk_tokens // meshes.batch_shards(mesh)) or math.inf)
    logits = 2 * 4 * tokens * cfg.model.vocab_size // inner if cfg.task.predicts_text else 0
    return kept + of_weights // meshes.weight_shards(mesh) + max(layer, logits)


def _received(run: Run, weights: list[_Weight], tokens: float) -> dict[str, float]:
    """By axis, `fsdp` standing for all that gather weights; `tokens` are those of a device."""
    cfg, sizes, out = run.cfg, run.mesh.shape, {}
    out["fsdp"] = sum(3 * cfg.micro_batches * each.size * (each.ways - 1) / each.ways for each in weights)
    stream, again = tokens * cfg.model.embed_dim * _width(run), passes(cfg.model) - 1
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
