"""Temporary memory of a device in the gradient of a pipelined stack, as XLA compiles it for CPU: GPipe beside 1F1B.

    python -m benchmarks.pipeline_memory            # forced CPU devices, one a stage; nothing is run

Micro-batches are of one row each, so that a batch grows with their number. Two parts of the temporaries are reckoned:
`kept_mib`, what the schedule keeps for backward turns to come (GPipe the input of each of a stage's layers at each
tick, and without rematerialisation more than that; 1F1B the inputs of a stage of `room` micro-batches), and
`gradient_mib`, a stage's part of the gradient.
"""

import os

os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"
os.environ["JAX_PLATFORMS"] = "cpu"

import jax
import jax.numpy as jnp

from arch import tree
from arch.families import llama
from arch.layers.weight import axes, trainable, unbox
from arch.sharding import mesh as meshes
from arch.sharding import one_forward_one_backward, pipeline
from arch.train.gradient import gradient_of
from benchmarks.measure import write

LAYERS, TOKENS, MIB = 16, 256, 2**20
MODEL = dict(vocab_size=256, embed_dim=128, hidden_dim=384, num_heads=4, num_layers=LAYERS)
INPUT = 4 * TOKENS * MODEL["embed_dim"]
"""Bytes of what enters a layer of one row."""
KINDS = ("full", "gpipe"), ("full", "1f1b"), ("none", "1f1b")
CASES = [(4, count, *kind) for kind in KINDS for count in (4, 16, 64)] + [(8, 16, *kind) for kind in KINDS[:2]]
"""(stages, micro-batches, what is computed again, schedule)."""


def compiled(stages: int, how: pipeline.Config, remat: str):
    """The gradient's program, and the bytes of a device's part of the parameters."""
    cfg = llama.compose(**MODEL)
    cfg = cfg.replace(layers=cfg.layers.replace(remat=remat, pipeline=how))
    boxes = jax.eval_shape(cfg.make().init, jax.random.key(0), jnp.zeros((1, 2), jnp.int32))["params"]
    mesh = meshes.make(meshes.Config(data=1, stage=stages), jax.devices()[:stages])
    place = lambda names, shape, dtype: jax.ShapeDtypeStruct(shape, dtype, sharding=meshes.sharding(names, shape, mesh))
    names, shapes = axes(boxes), unbox(boxes)
    of_leaf = lambda names, leaf: place(names, leaf.shape, leaf.dtype)
    params = jax.tree.map(of_leaf, names, shapes, is_leaf=lambda names: isinstance(names, tuple))
    fields = dict(tokens="int32", targets="int32", positions="int32", weights="float32")
    batch = {name: place(("batch", None), (how.micro_batches, TOKENS), dtype) for name, dtype in fields.items()}
    with jax.set_mesh(mesh):
        gradient = jax.jit(gradient_of(cfg.make(), trainable(boxes)))
        lowered = gradient.lower(params, batch, jax.eval_shape(lambda: jax.random.key(0)))
        return lowered.compile(), 4 * tree.count(shapes)


def row(stages: int, micro_batches: int, remat: str, schedule: str) -> dict:
    how = pipeline.Config(micro_batches=micro_batches, schedule=schedule)
    program, parameters = compiled(stages, how, remat)
    kept = how.ticks(stages) * LAYERS // stages if schedule == "gpipe" else one_forward_one_backward.room(stages)
    return dict(
        stages=stages,
        micro_batches=micro_batches,
        remat=remat,
        schedule=schedule,
        bubble=round(how.bubble(stages), 4),
        gradient_mib=round(parameters / stages / MIB, 2),
        kept_mib=round(kept * INPUT / MIB, 2),
        temporaries_mib=round(program.memory_analysis().temp_size_in_bytes / MIB, 2),
    )


if __name__ == "__main__":
    write("pipeline_memory", [row(*case) for case in CASES])
