"""Grouped matrix product against `lax.ragged_dot` and an equal batched product, forward and with gradients.

`even` groups are what the batched product needs; in `skewed` ones expert i has a share proportional to 1 / (i + 1).

    python -m benchmarks.grouped_matmul
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from arch.ops.grouped_matmul import grouped_matmul
from benchmarks.measure import measure, with_gradients, write

SHAPES = [(4096, 128, 256, 8), (4096, 512, 1024, 8)]
BLOCKS = (64, 128, 256, 512)


def sizes(kind: str, m: int, e: int) -> np.ndarray:
    share = np.full(e, 1 / e) if kind == "even" else 1 / np.arange(1, e + 1) / np.sum(1 / np.arange(1, e + 1))
    result = np.floor(share * m).astype(np.int32)
    result[0] += m - result.sum()
    return result


def batched(x, weight, group_sizes):
    return jnp.einsum("emd,edf->emf", x.reshape(len(group_sizes), -1, x.shape[1]), weight).reshape(len(x), -1)


def compare(m: int, d: int, f: int, e: int, kind: str, dtype=jnp.float32) -> list[dict]:
    keys = jax.random.split(jax.random.key(0), 3)
    x, weight, dy = (jax.random.normal(key, shape, dtype) for key, shape in zip(keys, [(m, d), (e, d, f), (m, f)]))
    group_sizes = jnp.asarray(sizes(kind, m, e))
    functions = {"lax.ragged_dot": lax.ragged_dot}
    if kind == "even":
        functions["equal batched product"] = batched
    for block in BLOCKS:
        functions[f"blocks of {block}"] = partial(grouped_matmul, block=block, implementation="blocks")
    both = {name: with_gradients(function, 2) for name, function in functions.items()}
    about = dict(m=m, d=d, f=f, e=e, groups=kind)
    forward = measure(functions, x, weight, group_sizes, peer="lax.ragged_dot")
    backward = measure(both, x, weight, group_sizes, dy, peer="lax.ragged_dot")
    return [about | dict(what="forward") | row for row in forward] + [
        about | dict(what="forward+backward") | row for row in backward
    ]


if __name__ == "__main__":
    write("grouped_matmul", [row for shape in SHAPES for kind in ("even", "skewed") for row in compare(*shape, kind)])
