"""The selective scan, chunked, against the token scan that autodiff differentiates, forward and with gradients.

`checkpointed` is what the chunked scan replaces: the reference, 64 tokens at a time, each under `jax.checkpoint`.

    python -m benchmarks.scan
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from arch.ops.selective_scan import selective_scan, selective_scan_reference
from benchmarks.measure import measure, with_gradients, write

SHAPES = [(8, 256, 256, 16), (2, 2048, 512, 16)]  # b t f n
CHUNKS = (8, 16, 32, 64)


def inputs(b: int, t: int, f: int, n: int) -> tuple[jax.Array, ...]:
    """x, delta, A, B, C, D as Mamba's initialisation spreads them: delta log-uniform in [0.001, 0.1], A = -1 ... -n."""
    keys = jax.random.split(jax.random.key(0), 4)
    x, B, C = (jax.random.normal(key, (b, t, size)) for key, size in zip(keys, (f, n, n)))
    delta = jnp.exp(jax.random.uniform(keys[3], (b, t, f), minval=jnp.log(0.001), maxval=jnp.log(0.1)))
    return x, delta, -jnp.broadcast_to(jnp.arange(1.0, n + 1), (f, n)), B, C, jnp.ones(f)


def checkpointed(x, delta, A, B, C, D, chunk=64):
    b, t, f = x.shape
    split = lambda array: array.reshape(b, t // chunk, chunk, -1).swapaxes(0, 1)

    @jax.checkpoint
    def run_chunk(state, tokens):
        x, delta, B, C = tokens
        y, state = selective_scan_reference(x, delta, A, B, C, D, state=state)
        return state, y

    state = jnp.zeros((b, f, A.shape[1]))
    return lax.scan(run_chunk, state, tuple(map(split, (x, delta, B, C))))[1].swapaxes(0, 1).reshape(x.shape)


def compare(b: int, t: int, f: int, n: int) -> list[dict]:
    arrays = inputs(b, t, f, n)
    functions = {"token scan": lambda *args: selective_scan_reference(*args)[0], "checkpointed": checkpointed}
    for chunk in CHUNKS:
        functions[f"chunks of {chunk}"] = lambda *args, scan=partial(selective_scan, chunk=chunk): scan(*args)[0]
    both = {name: with_gradients(function, 6) for name, function in functions.items()}
    about = dict(b=b, t=t, f=f, n=n)
    forward = measure(functions, *arrays, peer="token scan")
    backward = measure(both, *arrays, arrays[0], peer="token scan")
    return [about | dict(what="forward") | row for row in forward] + [
        about | dict(what="forward+backward") | row for row in backward
    ]


if __name__ == "__main__":
    write("scan", [row for shape in SHAPES for row in compare(*shape)])
