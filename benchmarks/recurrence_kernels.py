"""What compilers make of the kernels of recurrences, forward and backward, for devices that are not here.

    python -m benchmarks.recurrence_kernels H200    needs the wheels of `benchmarks.gpu_kernels`
    python -m benchmarks.recurrence_kernels v5e     or v5p or v6e: needs libtpu

Nothing runs, so there is no time of a run here: processor seconds to lower and to compile, temporaries, and on a GPU
registers and spills.
"""

import json
import os
import re
import sys
import time

os.environ["JAX_PLATFORMS"] = "cpu"  # plugins would look for their devices

import jax
import numpy as np
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from arch.kernels.linear_attention.decayed import KERNELS as ATTENTION
from arch.kernels.linear_attention.decayed import decayed_attention
from arch.kernels.selective_scan.scan import KERNELS as SCAN
from arch.kernels.selective_scan.scan import selective_scan
from arch.kernels.wkv.average import KERNELS as AVERAGE
from arch.kernels.wkv.average import wkv
from arch.ops.wkv import State
from benchmarks import gpu_kernels, measure

TOPOLOGIES = {"v5e": "v5e:2x2", "v5p": "v5p:2x2x1", "v6e": "v6e:2x2"}
LENGTHS = 8192, 65536
MARK = "row: "


def attention(kernels: str, heads: int, groups: int, channels: int, values: int):
    """Decayed attention with its gradients, and the shapes and dtypes of its operands without the length."""

    def run(query, key, value, log_decay, *gradients):
        function = lambda *arrays: decayed_attention(*arrays, kernels=kernels)
        results, pull = jax.vjp(function, query, key, value, log_decay)
        return results, pull(gradients)

    queries, of_values = ((1, 0, groups, channels), "bfloat16"), ((1, 0, heads, values), "bfloat16")
    state = ((1, heads, channels, values), "float32")
    return run, (queries, queries, of_values, ((1, 0, heads), "float32"), of_values, state)


def scan(kernels: str, channels: int, states: int):
    """The selective scan; see `attention`."""

    def run(x, delta, A, B, C, D, *gradients):
        results, pull = jax.vjp(lambda *arrays: selective_scan(*arrays, kernels=kernels), x, delta, A, B, C, D)
        return results, pull(gradients)

    x, of_states = ((1, 0, channels), "bfloat16"), ((1, 0, states), "bfloat16")
    fixed = ((channels, states), "float32"), ((channels,), "float32"), ((1, channels, states), "float32")
    return run, (x, ((1, 0, channels), "float32"), fixed[0], of_states, of_states, fixed[1], x, fixed[2])


def average(kernels: str, channels: int):
    """WKV; see `attention`."""

    def run(key, value, decay, bonus, dy, *d_state):
        results, pull = jax.vjp(lambda *arrays: wkv(*arrays, kernels=kernels), key, value, decay, bonus)
        return results, pull((dy, State(*d_state)))

    x, row, state = ((1, 0, channels), "bfloat16"), ((channels,), "float32"), ((1, channels), "float32")
    return run, (x, x, row, row, x, state, state, state)


def cases(target: str) -> dict:
    """What is compiled, by name: the function and its operands, where the target has the kernel."""
    kernels = "hopper" if target == "H200" else "tpu"
    found = {}
    if kernels in ATTENTION:
        found["retention"] = attention(kernels, 16, 16, 64, 128)
        found["mamba-2 780m"] = attention(kernels, 48, 1, 128, 64)
    if kernels in SCAN:
        found["mamba 790m"] = scan(kernels, 3072, 16)
    if kernels in AVERAGE:
        found["rwkv-4 1b5"] = average(kernels, 2048)
    return found


def row(target: str, name: str, length: int) -> dict:
    """What the compiled program needs."""
    if target == "H200":
        topology = topologies.get_topology_desc(platform="cuda", target_config=gpu_kernels.H200, topology="1x1x1")
    else:
        topology = topologies.get_topology_desc(platform="tpu", topology_name=TOPOLOGIES[target])
    whole = NamedSharding(Mesh(np.array(topology.devices[:1]), ("x",)), PartitionSpec())
    run, operands = cases(target)[name]
    arrays = [
        jax.ShapeDtypeStruct(tuple(size or length for size in shape), dtype, sharding=whole)
        for shape, dtype in operands
    ]
    start = time.process_time()
    lowered = jax.jit(run).lower(*arrays)
    seconds = time.process_time() - start
    memory = lowered.compile().memory_analysis()
    return dict(
        case=name,
        length=length,
        lowering_s=round(seconds, 2),
        compile_s=round(time.process_time() - start - seconds, 2),
        temporary_bytes=memory.temp_size_in_bytes,
        operand_and_result_bytes=memory.argument_size_in_bytes + memory.output_size_in_bytes,
        code_bytes=memory.generated_code_size_in_bytes,
    )


def rows(target: str) -> list[dict]:
    """A row for each case and length; on a GPU with what NVIDIA's compiler says of each kernel."""
    wanted = [(name, length) for name in cases(target) for length in LENGTHS]
    if target != "H200":
        return [row(target, *case) for case in wanted]
    found = []
    for name, length in wanted:
        text = gpu_kernels.dumped([sys.executable, "-m", "benchmarks.recurrence_kernels", target, name, str(length)])
        kernels = sorted(gpu_kernels.kernels(text), key=lambda kernel: kernel["kernel"])
        found.append(json.loads(re.search(f"^{MARK}(.*)$", text, re.M)[1]) | dict(kernels=kernels))
    return found


def main(target: str, *case: str) -> None:
    """Adds what this target needs to benchmarks/results/recurrence_kernels.json, or prints one case."""
    if target == "H200" and gpu_kernels.missing():
        sys.exit(f"not installed: {' '.join(gpu_kernels.missing())}; see benchmarks/gpu_kernels.py")
    if case:
        print(MARK + json.dumps(row(target, case[0], int(case[1]))), flush=True)
        return
    measure.add("recurrence_kernels", (target,), dict(target=f"{target}, none here", rows=rows(target)))


if __name__ == "__main__":
    main(*sys.argv[1:])
