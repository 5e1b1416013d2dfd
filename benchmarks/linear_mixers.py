"""Linear attention without decay, RetNet's, gated and FAVOR+, in chunks of several sizes, against their token scans.

    python -m benchmarks.linear_mixers [LENGTH ...]      2048 and 16384 when none is given; rows of width 256

FAVOR+ has no token scan of its own: its peer is softmax attention, of which it is an approximation.
"""

import sys
from functools import partial

import jax
import jax.numpy as jnp

from arch.mixers.retention import log_decays
from arch.ops.chunked_attention import chunked_attend
from arch.ops.linear_attention.favor import draw, favor_attention
from arch.ops.linear_attention.recurrence import linear_attention
from benchmarks.measure import measure, with_gradients, write

WIDTH, HEADS, FEATURES = 256, 4, 256
CHUNKS = (32, 64, 128)
OPERATIONS = ("linear_attention", "retention", "gated_linear_attention", "favor")


def inputs(name: str, length: int) -> tuple[jax.Array, ...]:
    """Random arguments of an operation for one row, decays spread as initial ones are."""
    shape = (1, length, HEADS, WIDTH // HEADS)
    keys = jax.random.split(jax.random.key(0), 4)
    heads = tuple(jax.random.normal(key, shape) for key in keys[:3])
    match name:
        case "retention":
            return *heads, jnp.asarray(log_decays(HEADS), jnp.float32)[None, None, :, None]
        case "gated_linear_attention":
            return *heads, jax.nn.log_sigmoid(jax.random.normal(keys[3], shape)) / 16
        case "favor":
            return *heads, draw(keys[3], FEATURES, shape[-1])
        case _:
            return heads


def compare(name: str, length: int) -> list[dict]:
    """Forward, and forward with gradients."""
    arrays = inputs(name, length)
    if name == "favor":
        peer, run = "softmax", favor_attention
        functions = {peer: lambda query, key, value, vectors: chunked_attend(query, key, value, causal=True)}
    else:
        peer, run = "token scan", linear_attention
        functions = {peer: lambda *args: linear_attention(*args, implementation="recurrent")[0]}
    for chunk in CHUNKS:
        functions[f"chunks of {chunk}"] = lambda *args, call=partial(run, chunk=chunk): call(*args)[0]
    both = {form: with_gradients(function, 3) for form, function in functions.items()}
    timed = {
        "forward": measure(functions, *arrays, peer=peer),
        "forward+backward": measure(both, *arrays, arrays[2], peer=peer),
    }
    return [dict(op=name, length=length, what=what) | row for what, rows in timed.items() for row in rows]


if __name__ == "__main__":
    lengths = [int(length) for length in sys.argv[1:]] or [2048, 16384]
    write("linear_mixers", [row for length in lengths for name in OPERATIONS for row in compare(name, length)])
