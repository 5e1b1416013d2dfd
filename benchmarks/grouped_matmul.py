"""Grouped matrix product against `lax.ragged_dot`, forward and with gradients, on CPU (on GPUs: `benchmarks.gpu`).

    python -m benchmarks.grouped_matmul

Blocks of several sizes, and an equal batched product. `even` groups are what that needs; in `skewed` ones expert i has
a share proportional to 1 / (i + 1), in `4:1` ones every second expert four times the rows of the others.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from arch.ops.grouped_matmul import grouped_matmul
from benchmarks.measure import measure, with_gradients, write

SHAPES = [(4096, 128, 256, 8), (4096, 512, 1024, 8)]
"""Rows, inputs and outputs of an expert, experts."""
BLOCKS = (64, 128, 256, 512)


def sizes(kind: str, m: int, e: int) -> np.ndarray:
    """Rows of each expert, m in all."""
    places = np.arange(e)
    weights = {"even": np.ones(e), "skewed": 1 / (1 + places), "4:1": np.where(places % 2, 4, 1)}[kind]
    result = np.floor(weights / np.sum(weights) * m).astype(np.int32)
    result[0] += m - result.sum()
    return result


def batched(x, weight, group_sizes):
    return jnp.einsum("emd,edf->emf", x.reshape(len(group_sizes), -1, x.shape[1]), weight).reshape(len(x), -1)


def inputs(m: int, d: int, f: int, e: int) -> list[jax.Array]:
    """x, weight, dy."""
    keys = jax.random.split(jax.random.key(0), 3)
    return [jax.random.normal(key, shape) for key, shape in zip(keys, [(m, d), (e, d, f), (m, f)])]


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
    return compare(functions, inputs(m, d, f, e), sizes(kind, m, e), about)


if __name__ == "__main__":
    write("grouped_matmul", [row for shape in SHAPES for kind in ("even", "skewed") for row in on_cpu(*shape, kind)])
