"""What a training step of a published model needs of each TPU of a slice that is not here, from XLA's own compiler.

python -m benchmarks.plan mixtral.mixtral_8x7b v5e:8x8 fsdp=8 expert=8

Rows of 4096 tokens, one a chip; float32 weights and moments (AdamW), bfloat16 arithmetic, full rematerialisation, the
loss 512 tokens of a row at a time; a mixture's rows go to their experts in rounds of 5/8 of an even load, so at such a
load in two, with a quarter to spare. `round=0.4` makes them smaller, `round=0` sends 512 tokens of a row at a time
instead, in less memory and more time. Needs libtpu, no TPU. What does not fit the chip, the compiler refuses and says
by how much. `temporaries` are as XLA tells them, on v5e with 128 MiB of VMEM among them; `peak` is the most at a time.
Of a scan's body, `collectives` counts one round.
"""

import importlib
import os
import sys
import time

os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
from jax.experimental import topologies

from arch import tree
from arch.layers import token_loss
from arch.models import decoder
from arch.sharding import mesh as meshes
from arch.train import bad_batch, optimizer
from arch.train import state as states
from arch.train.step import train_step
from benchmarks import measure
from benchmarks.program import collectives

LENGTH, CHUNK, ROUND, MIB = 4096, 512, 0.625, 2**20
FIELDS = dict(tokens="int32", targets="int32", weights="float32", positions="int32", segment_ids="int32")


def preset(name: str, a_round: float = ROUND) -> decoder.Config:
    """A family's preset as it needs little memory, its mixtures' rounds of so many times an even load; 0: `CHUNK`."""
    dispatch = dict(round_factor=a_round) if a_round else dict(chunk_tokens=CHUNK)
    family, which = name.split(".")
    cfg = importlib.import_module(f"arch.families.{family}").PRESETS[which]

    def in_rounds(layer):
        sublayers = (part.replace(**dispatch) if part.label == "moe" else part for part in layer.sublayers)
        return layer.replace(sublayers=tuple(sublayers))

    layers = cfg.layers.replace(remat="full", pattern=tuple(map(in_rounds, cfg.layers.pattern)))
    return cfg.replace(dtype="bfloat16", layers=layers)


def lowered(cfg: decoder.Config, mesh, *, length: int = LENGTH):
    """The step of this model on the mesh with a row a device, lowered, and how many parameters it has."""
    model = cfg.make()
    descend = optimizer.Config().make(1000)
    plan = states.plan(model, descend, mesh)
    loss = token_loss.Config(chunk_tokens=CHUNK * mesh.size)
    step = train_step(model, cfg, descend, plan.trainable, None, loss=loss)
    shape = (mesh.size, length)
    where = meshes.sharding(("batch", None), shape, mesh)
    batch = {field: jax.ShapeDtypeStruct(shape, dtype, sharding=where) for field, dtype in FIELDS.items()}
    key = jax.eval_shape(lambda: jax.random.key(0))
    out = jax.tree.map(lambda leaf: leaf.sharding, plan.abstract), None
    jitted = jax.jit(step, donate_argnums=0, out_shardings=out)
    with jax.set_mesh(mesh):
        program = jitted.lower(plan.abstract, batch, key, bad_batch.order(0, bad_batch.JUDGE))
    return program, tree.count(plan.abstract.params)


def plan(name: str, topology: str, sizes: dict[str, int], a_round: float) -> dict:
    """The row of the results; where the compiler finds no room, its message instead of sizes."""
    devices = topologies.get_topology_desc(topology_name=topology, platform="tpu").devices
    mesh = meshes.make(meshes.Config(**sizes), devices)
    start = time.process_time()
    program, parameters = lowered(preset(name, a_round), mesh)
    row = dict(model=name, topology=topology, mesh=dict(mesh.shape), chips=mesh.size, parameters=parameters)
    row |= dict(chunk_tokens=CHUNK, round_factor=a_round)
    try:
        compiled = program.compile()
    except jax.errors.JaxRuntimeError as error:
        print(error, file=sys.stderr)  # with what takes the room
        return row | dict(refused=str(error).splitlines()[0], cpu_s=round(time.process_time() - start))
    memory = compiled.memory_analysis()
    return row | dict(
        arguments_mib=round(memory.argument_size_in_bytes / MIB),
        temporaries_mib=round(memory.temp_size_in_bytes / MIB),
        peak_mib=round(memory.peak_memory_in_bytes / MIB),
        collectives=collectives.summary(compiled.as_text()),
        cpu_s=round(time.process_time() - start),
    )


def main(name: str, topology: str, *sizes: str) -> None:
    """Plans, and adds the row to benchmarks/results/plan.json."""
    given = dict(pair.split("=") for pair in sizes)
    a_round = float(given.pop("round", ROUND))
    axes = {axis: int(size) for axis, size in given.items()}
    measure.add("plan", (name, topology, *sizes), plan(name, topology, axes, a_round))


if __name__ == "__main__":
    main(*sys.argv[1:])
