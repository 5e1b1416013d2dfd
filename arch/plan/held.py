"""What a step of training holds of a device's memory, moment by moment: nothing is compiled.

    always    the layers' weights in the dtype of the arithmetic, converted once; the table's gradient in float32, whole
              until it is summed over the devices; and where tiles lay a table along its ids, it and its two moments
              turned around
    loss      what the forward pass keeps; the table, put together; the logits of a chunk and their gradient
    backward  what the forward pass keeps; of each other trained weight a float32; what a layer computes again; a period
              of weights, put together from their shards, twice (the next come early), and its gradient; of experts on
              other devices also the gradient in float32 and `HIDDEN` hidden layers of rows
    update    of each weight a float32; the gradient of the embedding by its rows, whole, before it joins the table's

What the forward pass keeps, and a layer computes again, `arch.plan.activations` tells. Micro-batches of a step add
their gradients up, beside which each has its own; those of a pipeline add them in place. What a chip keeps near its
arithmetic (`VMEM`) is not in its memory: so much less of the logits or of a layer is there. That this is how libtpu
0.0.48 has it, its own log of buffers showed on the steps that `benchmarks/closed_form.py` calls FITTED.
"""

import math
from typing import Any, NamedTuple

import jax

from arch.plan import activations, tiles
from arch.plan.lowering import Run
from arch.sharding import mesh as meshes
from arch.train import memory
from arch.train.mixtures import mixtures

HIDDEN = 6
"""Arrays as large as a mixture's hidden layers that a device holds: gate, up, their product, and the gradients."""
VMEM = {"TPU v5 lite": 117_440_512, "TPU v5": 50_266_112, "TPU v6 lite": 100_597_760, "TPU7x": 67_043_328}
"""Bytes near the arithmetic that libtpu fills with a program's arrays, as its log has them; 0 of others."""
OUTPUT = "embedding/output"
TABLES = ("embedding/table", OUTPUT)
"""The weights that have a row for each id; without OUTPUT the first one is also that of the logits."""


class Weight(NamedTuple):
    """A weight as a device computes with it.

    path: of it.
    layers: how many layers are stacked in it; 0 outside of scanned stacks.
    ways: among how many devices it is gathered.
    size: bytes behind that, in the dtype of the arithmetic.
    here: bytes of a device's part in float32, as it lies.
    turned: bytes of that part with its ids along the rows of tiles, where it does not lie so; else 0.
    """

    path: str
    layers: int
    ways: int
    size: int
    here: int
    turned: int

    @property
    def whole(self) -> bool:
        """Whether its gradient is whole before it is summed: that of a table, all at once."""
        return self.path in TABLES and self.ways > 1


class Moment(NamedTuple):
    """Bytes of a device: of gradients, of activations, of weights in another form or place."""

    gradients: int
    activations: int
    gathered: int


def weights(run: Run, kind: str) -> list[Weight]:
    """All weights. Experts stay where they are, and what `tensor` splits is computed with in parts."""
    sizes, out = run.mesh.shape, []
    for path, leaf in jax.tree_util.tree_flatten_with_path(run.plan.abstract.params)[0]:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        axes, shape = run.plan.axes[name], leaf.sharding.shard_shape(leaf.shape)
        split = {name for part in leaf.sharding.spec if part for name in ((part,) if isinstance(part, str) else part)}
        stays = split & {"tensor", *(["expert"] if "experts" in axes else []), *(["stage"] if "layers" in axes else [])}
        parts = math.prod(sizes[name] for name in stays)
        out.append(
            Weight(
                path=name,
                layers=shape[0] if "layers" in axes else 0,
                ways=math.prod(sizes[name] for name in split - stays),
                size=leaf.size * activations.width(run) // parts,
                here=size_of(leaf, kind),
                turned=_turned(shape) if name in TABLES and activations.tiled(kind) else 0,
            )
        )
    return out


def _turned(shape: tuple[int, int]) -> int:
    """Bytes of a table [v d] that lies with v along the lanes, with d along them."""
    return tiles.by_rows(shape, 4) if tiles.minor(shape) == 0 else 0


def size_of(leaf: Any, kind: str) -> int:
    """Bytes of a device's part of an array with a sharding."""
    if not activations.tiled(kind):
        return memory.size(leaf)
    return tiles.size(leaf.sharding.shard_shape(leaf.shape), leaf.dtype.itemsize) if memory.size(leaf) else 0


def peak(run: Run, kind: str) -> Moment:
    """The moment at which a step holds most."""
    return max(_moments(run, weights(run, kind), kind), key=sum)


def _moments(run: Run, some: list[Weight], kind: str) -> list[Moment]:
    near, bulk = VMEM.get(kind, 0), run.cfg.micro_batches > 1
    tables = [weight for weight in some if weight.whole] if run.cfg.task.predicts_text else []
    table = 4 // activations.width(run) * max((weight.size for weight in tables), default=0)
    gathered = max((weight.size for weight in some if weight.ways > 1 and not weight.layers), default=0)
    turned = 3 * sum(weight.turned for weight in some)
    converted = sum(weight.size // weight.ways for weight in some if weight.layers) if activations.width(run) < 4 else 0
    period = sum(weight.size // weight.layers for weight in some if weight.ways > 1 and weight.layers)
    tied = not any(weight.path == OUTPUT for weight in some)
    own = sum(weight.here for weight in some if not (tied and weight in tables))
    added = own if bulk else 0
    kept, layer, logits = activations.of(run, kind)
    always, later = converted + turned, table if tied else 0
    return [
        Moment(added, kept + max(0, logits - near), always + table + gathered),
        Moment(own + added, kept + max(0, layer - near), always + later + 3 * period + _exchanged(run)),
        Moment(own + added, 0, always + later + table),
    ]


def _exchanged(run: Run) -> int:
    """Of the largest mixture whose rows travel: the float32 gradient of a device's experts, and what rows become."""
    shards, sizes = run.mesh.shape["expert"], [0]
    tokens = run.cfg.batch_size // run.cfg.micro_batches // meshes.batch_shards(run.mesh) * run.cfg.seq_len
    for _, part in mixtures(run.cfg.model) if shards > 1 else ():
        here = part.num_experts // shards
        places = min(tokens, part.chunk_tokens or tokens) * shards * min(part.top_k, here)
        if part.round_factor:
            places = math.ceil(part.round_factor * tokens * part.top_k)
        gradient = 4 * part.matrices * here * run.cfg.model.embed_dim * part.hidden_dim
        sizes.append(gradient + HIDDEN * places * part.hidden_dim * activations.width(run))
    return max(sizes)
