"""What compilers make of the kernels over block maps, forward and backward, for devices that are not here.

    python -m benchmarks.block_attention H200    needs the wheels of `benchmarks.gpu_kernels`
    python -m benchmarks.block_attention v5e     or v5p or v6e: needs libtpu

Nothing runs, so there is no time here: temporaries, code, and on a GPU registers and spills. Memory must grow with the
length and with the blocks that are not empty, and code with neither, nor with how many different masks there are.
"""

import json
import os
import re
import sys

os.environ["JAX_PLATFORMS"] = "cpu"  # plugins would look for their devices

import jax
import numpy as np
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from arch.kernels.block_attention.flash import attend
from arch.kernels.block_attention.visits import visits
from arch.ops.patterns import BlockMap, Pattern, block_map, causal, global_tokens, random_blocks, window
from benchmarks import gpu_kernels, measure

TOPOLOGIES = {"v5e": "v5e:2x2", "v5p": "v5p:2x2x1", "v6e": "v6e:2x2"}
HEADS, KV_HEADS, CHANNELS, BLOCK = 8, 2, 128, (128, 128)


def pattern(name: str, length: int) -> Pattern:
    """A window as Mistral's, BigBird's blocks of 64, or a window and places at random, whose masks all differ."""
    places = np.sort(np.random.default_rng(0).choice(length, 64, replace=False))
    return {
        "window": lambda: causal & window(1024),
        "BigBird": lambda: window(97) | global_tokens(*range(128)) | random_blocks(3, seed=0, size=64),
        "many masks": lambda: window(97) | global_tokens(*map(int, places)),
    }[name]()


CASES = [("window", 8192), ("window", 32768), ("BigBird", 8192), ("BigBird", 32768), ("many masks", 8192)]
MARK = "row: "


def lower(target: str, map_: BlockMap):
    """The lowered attention of a row of bfloat16, with its gradients."""
    if target == "H200":
        topology = topologies.get_topology_desc(platform="cuda", target_config=gpu_kernels.H200, topology="1x1x1")
    else:
        topology = topologies.get_topology_desc(platform="tpu", topology_name=TOPOLOGIES[target])
    whole = NamedSharding(Mesh(np.array(topology.devices[:1]), ("x",)), PartitionSpec())
    t = map_.query_length
    array = lambda *shape, dtype="bfloat16": jax.ShapeDtypeStruct(shape, dtype, sharding=whole)
    keys, queries = array(1, t, KV_HEADS, CHANNELS), array(1, t, HEADS, CHANNELS)

    def run(query, key, value, *gradients):
        kernels = "hopper" if target == "H200" else "tpu"
        results, pull = jax.vjp(lambda *arrays: attend(*arrays, map_, kernels=kernels), query, key, value)
        return results, pull(gradients)

    return jax.jit(run).lower(queries, keys, keys, queries, array(1, HEADS, t, dtype="float32"))


def row(target: str, name: str, length: int) -> dict:
    """What the compiled program needs, and what its lists hold."""
    map_ = block_map(pattern(name, length), length, length, block=BLOCK)
    memory = lower(target, map_).compile().memory_analysis()
    lists = visits(map_.lists), visits(map_.transposed().lists)
    return dict(
        pattern=name,
        length=length,
        blocks=len(map_.lists.blocks),
        visits=[found.count for found in lists],
        masks=len(map_.masks),
        list_bytes=sum(array.nbytes for found in lists for array in vars(found).values() if hasattr(array, "nbytes")),
        mask_bytes=map_.masks.nbytes,
        temporary_bytes=memory.temp_size_in_bytes,
        operand_and_result_bytes=memory.argument_size_in_bytes + memory.output_size_in_bytes,
        code_bytes=memory.generated_code_size_in_bytes,
    )


def rows(target: str) -> list[dict]:
    """A row for each case; on a GPU with what NVIDIA's compiler says of each kernel."""
    if target != "H200":
        return [row(target, *case) for case in CASES]
    found = []
    for name, length in CASES:
        text = gpu_kernels.dumped([sys.executable, "-m", "benchmarks.block_attention", target, name, str(length)])
        kernels = sorted(gpu_kernels.kernels(text), key=lambda kernel: kernel["kernel"])
        found.append(json.loads(re.search(f"^{MARK}(.*)$", text, re.M)[1]) | dict(kernels=kernels))
    return found


def main(target: str, *case: str) -> None:
    """Adds what this target needs to benchmarks/results/block_attention.json, or prints one case."""
    if target == "H200" and gpu_kernels.missing():
        sys.exit(f"not installed: {' '.join(gpu_kernels.missing())}; see benchmarks/gpu_kernels.py")
    if case:
        print(MARK + json.dumps(row(target, case[0], int(case[1]))), flush=True)
        return
    shape = dict(heads=HEADS, kv_heads=KV_HEADS, channels=CHANNELS, dtype="bfloat16", block=BLOCK)
    measure.add("block_attention", (target,), dict(target=f"{target}, none here", **shape, rows=rows(target)))


if __name__ == "__main__":
    main(*sys.argv[1:])
