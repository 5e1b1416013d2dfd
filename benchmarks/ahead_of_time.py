"""Compiling for devices that are not here: TPUs by libtpu, an H200 by the wheels of `benchmarks.gpu_kernels`.

A benchmark hands `main` its own name and `row(target, *case)`. On a GPU each case is compiled in a process of its own,
from whose output what NVIDIA's compiler says of the kernels is read.
"""

import json
import os
import re
import sys
from collections.abc import Callable, Sequence

os.environ["JAX_PLATFORMS"] = "cpu"  # plugins would look for their devices

import numpy as np
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from benchmarks import gpu_kernels, measure

TOPOLOGIES = {"v5e": "v5e:2x2", "v5p": "v5p:2x2x1", "v6e": "v6e:2x2"}
TARGETS = ("H200", *TOPOLOGIES)
MARK = "row: "


def on_one(target: str) -> NamedSharding:
    """Whole arrays on one device of the target."""
    if target == "H200":
        topology = topologies.get_topology_desc(platform="cuda", target_config=gpu_kernels.H200, topology="1x1x1")
    else:
        topology = topologies.get_topology_desc(platform="tpu", topology_name=TOPOLOGIES[target])
    return NamedSharding(Mesh(np.array(topology.devices[:1]), ("x",)), PartitionSpec())


def kernels(target: str) -> str:
    """The name of the kernels that run there."""
    return "hopper" if target == "H200" else "tpu"


def sizes(compiled) -> dict[str, int]:
    """Bytes of temporaries, of operands and results, and of code."""
    memory = compiled.memory_analysis()
    return dict(
        temporary_bytes=memory.temp_size_in_bytes,
        operand_and_result_bytes=memory.argument_size_in_bytes + memory.output_size_in_bytes,
        code_bytes=memory.generated_code_size_in_bytes,
    )


def main(name: str, arguments: Sequence[str], cases: Sequence[tuple[str, int]], row: Callable, **about) -> None:
    """Adds what a target needs to benchmarks/results/<name>.json, or prints the row of one case.

    Args:
      name: of the benchmark.
      arguments: of the command: a target, and maybe a case.
      cases: (name, length) of what is compiled for the target.
      row: row(target, name, length), what the compiled program needs.
      **about: what is kept beside the rows.
    """
    target, *case = arguments
    if target == "H200" and gpu_kernels.missing():
        sys.exit(f"not installed: {' '.join(gpu_kernels.missing())}; see benchmarks/gpu_kernels.py")
    if case:
        print(MARK + json.dumps(row(target, case[0], int(case[1]))), flush=True)
        return
    of_case = _with_kernels(name, target) if target == "H200" else lambda *case: row(target, *case)
    rows = [of_case(*case) for case in cases]
    measure.add(name, (target,), dict(target=f"{target}, none here", **about, rows=rows))


def _with_kernels(name, target):
    """The row of a case, with what NVIDIA's compiler says of each kernel."""

    def of_case(*case):
        text = gpu_kernels.dumped([sys.executable, "-m", f"benchmarks.{name}", target, *map(str, case)])
        found = sorted(gpu_kernels.kernels(text), key=lambda kernel: kernel["kernel"])
        return json.loads(re.search(f"^{MARK}(.*)$", text, re.M)[1]) | dict(kernels=found)

    return of_case
