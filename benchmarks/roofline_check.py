"""Our count of what a layer takes of each chip, beside that of XLA's compiler for TPUs, on four layers out of a scan.

python -m benchmarks.roofline_check

XLA counts a scan's body once, so 2, 3 and 4 layers are compiled one behind the other, without chunks of tokens, and
their differences are one layer each. Needs libtpu, no TPU. XLA does not know how many rows a ragged all-to-all carries:
those are counted, not measured.
"""

import json

from benchmarks import plan as planning  # first: it sets the environment

import jax
import jaxlib
from jax.experimental import topologies

from arch.families import mixtral
from arch.sharding import mesh as meshes
from benchmarks import roofline
from benchmarks.measure import RESULTS
from benchmarks.program import collectives

TOPOLOGY, SIZES, LENGTH = "v5e:2x4", dict(data=1, fsdp=2, expert=4), 256
MODEL = dict(embed_dim=1024, num_layers=1, num_heads=8, num_kv_heads=2, hidden_dim=3584, vocab_size=4096)


def unrolled(layers: int):
    """A small Mixtral whose layers are not scanned."""
    cfg = mixtral.compose(**MODEL)
    return cfg.replace(
        dtype="bfloat16", layers=cfg.layers.replace(pattern=cfg.layers.pattern * layers, repeats=1, remat="full")
    )


def counted(layers: int) -> dict:
    """What XLA says of a step on one chip."""
    devices = topologies.get_topology_desc(topology_name=TOPOLOGY, platform="tpu").devices
    mesh = meshes.make(meshes.Config(**SIZES), devices)
    program, parameters = planning.lowered(unrolled(layers), mesh, length=LENGTH)
    compiled = program.compile()
    cost, some = compiled.cost_analysis(), collectives.found(compiled.as_text())
    ragged = [one for one in some if one.kind == "ragged-all-to-all"]
    return dict(
        parameters=parameters,
        flops=cost["flops"],
        memory=cost["bytes accessed"],
        weights_received=sum(one.received for one in some if one not in ragged),
        exchanges=len(ragged),
    )


def ours(parameters: int) -> dict:
    """The same of one layer with so many parameters, by `benchmarks.roofline`."""
    place = roofline.Place(1, LENGTH, SIZES["fsdp"], SIZES["expert"])
    ops = roofline.of_layer(unrolled(1).layers.pattern[0], MODEL["embed_dim"], place)
    ops += [roofline.update(parameters, place)]
    return dict(
        flops=sum(op.flops for op in ops),
        memory=sum(op.memory for op in ops),
        weights_received=sum(op.gathered + op.scattered for op in ops),
        exchanges=sum(op.exchanges for op in ops),
    )


def main() -> None:
    """Compiles, compares, and writes benchmarks/results/roofline_check.json."""
    rows, before = [], counted(2)
    for layers in (3, 4):
        found = counted(layers)
        layer = {name: value - before[name] for name, value in found.items()}
        own, before = ours(layer["parameters"]), found
        ratio = {name: round(value / layer[name], 4) for name, value in own.items()}
        rows.append(dict(layers=layers, xla=layer, ours=own, ratio=ratio))
        out = dict(command="python -m benchmarks.roofline_check", topology=TOPOLOGY, mesh=SIZES, length=LENGTH)
        out |= dict(model=MODEL, jax=jax.__version__, jaxlib=jaxlib.__version__, rows=rows)
        (RESULTS / "roofline_check.json").write_text(json.dumps(out, indent=2) + "\n")
        print(json.dumps(rows[-1], indent=2), flush=True)


if __name__ == "__main__":
    main()
