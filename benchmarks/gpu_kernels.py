"""What the GPU kernels need of an H200 that is not here: registers, spills, shared memory, from NVIDIA's own compiler.

    python -m benchmarks.gpu_kernels

Needs no GPU, only the wheels of WHEELS (pip install --no-deps). Nothing runs, so there is no time here.
"""

import collections
import importlib.metadata
import os
import re
import subprocess
import sys

os.environ["JAX_PLATFORMS"] = "cpu"  # the plugin would look for a driver

import jax
import jaxlib
from jax.experimental import topologies
from jax.sharding import NamedSharding, PartitionSpec

from arch.kernels.grouped_matmul import hopper
from benchmarks import measure
from benchmarks.gpu.grouped_matmul import PUBLISHED

WHEELS = ("jax-cuda13-plugin", "jax-cuda13-pjrt", "nvidia-cuda-nvcc", "nvidia-nvvm")
H200 = """
platform_name: "CUDA"
device_description_str: "NVIDIA H200"
runtime_version { major: 13 }
dnn_version_info { major: 9 minor: 12 }
gpu_device_info {
  cuda_compute_capability { major: 9 }
  core_count: 132 fpus_per_core: 128 clock_rate_ghz: 1.98
  threads_per_warp: 32 threads_per_block_limit: 1024 threads_per_core_limit: 2048
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  registers_per_block_limit: 65536 registers_per_core_limit: 65536
  shared_memory_per_block: 49152 shared_memory_per_core: 233472 shared_memory_per_block_optin: 232448
  device_memory_size: 150754820096 memory_bandwidth: 4800000000000 l2_cache_size: 62914560
}
"""
SHAPES = PUBLISHED | {"small": (53, 64, 128, 3)}


def missing() -> list[str]:
    """What is not installed of WHEELS."""
    here = {distribution.name.replace("_", "-") for distribution in importlib.metadata.distributions()}
    return [name for name in WHEELS if name not in here]


def compile_grouped_matmul(m: int, d: int, f: int, e: int) -> None:
    """Compiles the product and both its gradients for an H200."""
    topology = topologies.get_topology_desc(platform="cuda", target_config=H200, topology="1x1x1")
    whole = NamedSharding(topologies.make_mesh(topology, (1,), ("x",)), PartitionSpec())
    kinds = ((m, d), "bfloat16"), ((e, d, f), "bfloat16"), ((m, f), "bfloat16"), ((e,), "int32")

    def both(x, weight, dy, sizes):
        y, pull = jax.vjp(lambda x, weight: hopper.grouped_matmul(x, weight, sizes), x, weight)
        return y, *pull(dy)[:2]

    jax.jit(both).lower(*(jax.ShapeDtypeStruct(*kind, sharding=whole) for kind in kinds)).compile()


def report(name: str) -> list[dict]:
    """A row for each kernel that the shape of this name compiles to."""
    return [dict(shape=name) | row for row in kernels(dumped([sys.executable, "-m", "benchmarks.gpu_kernels", name]))]


def dumped(command: list[str]) -> str:
    """What the compilers say of the kernels that this command compiles, and what it prints."""
    dumps = {f"MOSAIC_GPU_DUMP_{what}": "1" for what in ("PTX", "PTXAS", "RESOURCES")}
    return subprocess.run(command, env=os.environ | dumps, check=True, text=True, stdout=subprocess.PIPE).stdout


def kernels(text: str) -> list[dict]:
    """A row for each kernel, read from what the compilers say."""
    numbers = lambda pattern, text: [int(number) for number in re.findall(pattern, text)]
    rows = []
    for program in text.split(".visible .entry ")[1:]:
        registers, stores, loads = (
            max(numbers(pattern, program))
            for pattern in (r"Used (\d+) registers", r"(\d+) bytes spill stores", r"(\d+) bytes spill loads")
        )
        products = collections.Counter(re.findall(r"wgmma\.mma_async\S*\.(m\d+n\d+k\d+)\.", program))
        kernel = re.match(r"(\w+)_mosaic_gpu_kernel", program)[1]
        spilled = dict(spill_store_bytes=stores, spill_load_bytes=loads)
        rows.append(dict(kernel=kernel, registers=registers, **spilled, wgmma=dict(products)))
    memory = max(numbers(r"smem_scratch_bytes=(\d+)", text))
    return [row | dict(largest_shared_memory_bytes=memory) for row in rows]


def main() -> None:
    """Writes benchmarks/results/gpu_kernels.json."""
    if missing():
        sys.exit(
            f"not installed: {' '.join(missing())}; pip install --no-deps jax-cuda13-plugin=={jax.__version__} "
            f"jax-cuda13-pjrt=={jax.__version__} nvidia-cuda-nvcc==13.0.88 nvidia-nvvm==13.0.88"
        )
    rows = [row for name in SHAPES for row in report(name)]
    wheels = {name: importlib.metadata.version(name) for name in WHEELS}
    header = dict(
        command="python -m benchmarks.gpu_kernels",
        date=measure.today(),
        target="NVIDIA H200 (sm_90a), none here",
        versions=dict(jax=jax.__version__, jaxlib=jaxlib.__version__) | wheels,
        shapes={name: dict(zip(("rows", "inputs", "outputs", "experts"), sizes)) for name, sizes in SHAPES.items()},
    )
    measure.write_rows("gpu_kernels", header, rows)


if __name__ == "__main__":
    compile_grouped_matmul(*SHAPES[sys.argv[1]]) if len(sys.argv) > 1 else main()
