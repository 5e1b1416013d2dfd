"""Grouped matrix product against `lax.ragged_dot` and others, forward and with gradients.

    python -m benchmarks.grouped_matmul

On CPU: blocks of several sizes, and an equal batched product. `even` groups are what that needs; in `skewed` ones
expert i has a share proportional to 1 / (i + 1). On a GPU: the implementations of `arch.kernels.grouped_matmul.choice`
in bfloat16, the peers among them where they are installed (tokamax by its heuristics, not tuned for the device), and
how far each one's values and gradients are from those of `lax.ragged_dot`. In `4:1` groups every second expert has four
times the rows of the others.
"""

import importlib.metadata
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from arch.kernels.grouped_matmul import choice, peers
from arch.ops.grouped_matmul import grouped_matmul
from benchmarks.measure import measure, with_gradients, write

SHAPES = [(4096, 128, 256, 8), (4096, 512, 1024, 8)]
BLOCKS = (64, 128, 256, 512)
PUBLISHED = {"Mixtral 8x7B": (8192, 4096, 14336, 8), "DeepSeekMoE 16B": (24576, 2048, 1408, 64)}
"""Rows, inputs and outputs of an expert, experts; of 4096 tokens a chip."""


def sizes(kind: str, m: int, e: int) -> np.ndarray:
    """Rows of each expert, m in all."""
    places = np.arange(e)
    weights = {"even": np.ones(e), "skewed": 1 / (1 + places), "4:1": np.where(places % 2, 4, 1)}[kind]
    result = np.floor(weights / np.sum(weights) * m).astype(np.int32)
    result[0] += m - result.sum()
    return result


def batched(x, weight, group_sizes):
    return jnp.einsum("emd,edf->emf", x.reshape(len(group_sizes), -1, x.shape[1]), weight).reshape(len(x), -1)


def inputs(m: int, d: int, f: int, e: int, dtype) -> list[jax.Array]:
    """x, weight, dy."""
    keys = jax.random.split(jax.random.key(0), 3)
    return [jax.random.normal(key, shape, dtype) for key, shape in zip(keys, [(m, d), (e, d, f), (m, f)])]


def compare(functions: dict, arrays: list[jax.Array], group_sizes: np.ndarray, about: dict) -> list[dict]:
    """Rows of each function, forward and with gradients, in turns."""
    *arrays, dy = arrays
    both = {name: with_gradients(function, 2) for name, function in functions.items()}
    group_sizes = jnp.asarray(group_sizes)
    forward = measure(functions, *arrays, group_sizes, peer="lax.ragged_dot")
    backward = measure(both, *arrays, group_sizes, dy, peer="lax.ragged_dot")
    return [about | dict(what="forward") | row for row in forward] + [
        about | dict(what="forward+backward") | row for row in backward
    ]


def on_cpu(m: int, d: int, f: int, e: int, kind: str) -> list[dict]:
    functions = {"lax.ragged_dot": lax.ragged_dot}
    if kind == "even":
        functions["equal batched product"] = batched
    for block in BLOCKS:
        functions[f"blocks of {block}"] = partial(grouped_matmul, block=block, implementation="blocks")
    about = dict(m=m, d=d, f=f, e=e, groups=kind)
    return compare(functions, inputs(m, d, f, e, jnp.float32), sizes(kind, m, e), about)


def implementations(device_kind: str) -> dict:
    """Those that can run there, peers where they are installed."""
    names = ["mosaic", "blocks"]
    for package in peers.VERSIONS:
        try:
            importlib.metadata.version(package)
            names.append(package.replace("-", "_"))
        except importlib.metadata.PackageNotFoundError:
            print(f"without {package}, which is not installed")
    chosen = {name: partial(choice.grouped_matmul, device_kind=device_kind, implementation=name) for name in names}
    return {"lax.ragged_dot": lax.ragged_dot} | chosen


def difference(found, expected) -> float:
    """The largest of the arrays' differences, each relative to the largest entry."""
    far = lambda a, b: jnp.max(jnp.abs(a - b)) / jnp.max(jnp.abs(b))
    wide = lambda tree: jax.tree.map(lambda leaf: leaf.astype(jnp.float32), tree)
    return float(max(jax.tree.leaves(jax.tree.map(far, wide(found), wide(expected)))))


def on_gpu(name: str, kind: str, device_kind: str) -> list[dict]:
    m, d, f, e = PUBLISHED[name]
    functions, arrays, group_sizes = implementations(device_kind), inputs(m, d, f, e, jnp.bfloat16), sizes(kind, m, e)
    *operands, dy = arrays
    run = lambda function: jax.jit(with_gradients(function, 2))(*operands, jnp.asarray(group_sizes), dy)
    expected = run(functions["lax.ragged_dot"])
    differences = {name: difference(run(function), expected) for name, function in functions.items()}
    rows = compare(functions, arrays, group_sizes, dict(shape=name, m=m, d=d, f=f, e=e, groups=kind))
    products = {"forward": 1, "forward+backward": 3}
    for row in rows:
        teraflops = products[row["what"]] * 2 * m * d * f / row["median_ms"] / 1e9
        row.update(tflop_s=round(teraflops, 1), difference=differences[row["name"]])
    return rows


if __name__ == "__main__":
    device = jax.devices()[0]
    if device.platform == "gpu":
        cases = [(name, kind, device.device_kind) for name in PUBLISHED for kind in ("even", "4:1")]
        rows = [row for case in cases for row in on_gpu(*case)]
    else:
        rows = [row for shape in SHAPES for kind in ("even", "skewed") for row in on_cpu(*shape, kind)]
    write("grouped_matmul", rows)
