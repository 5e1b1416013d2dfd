"""What compilers make of the kernels of recurrences, forward and backward, for devices that are not here.

    python -m benchmarks.recurrence_kernels H200    needs the wheels of `benchmarks.gpu_kernels`
    python -m benchmarks.recurrence_kernels v5e     or v5p or v6e: needs libtpu

Nothing runs, so there is no time of a run here: processor seconds to lower and to compile, temporaries, and on a GPU
registers and spills.
"""

import sys
import time

from benchmarks import ahead_of_time  # first: it sets the environment

import jax

from arch.kernels.linear_attention.decayed import KERNELS as ATTENTION
from arch.kernels.linear_attention.decayed import decayed_attention
from arch.kernels.selective_scan.scan import KERNELS as SCAN
from arch.kernels.selective_scan.scan import selective_scan
from arch.kernels.wkv.average import KERNELS as AVERAGE
from arch.kernels.wkv.average import wkv
from arch.ops.wkv import State

LENGTHS = 8192, 65536


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
    kernels, found = ahead_of_time.kernels(target), {}
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
    whole = ahead_of_time.on_one(target)
    run, operands = cases(target)[name]
    arrays = [
        jax.ShapeDtypeStruct(tuple(size or length for size in shape), dtype, sharding=whole)
        for shape, dtype in operands
    ]
    start = time.process_time()
    lowered = jax.jit(run).lower(*arrays)
    seconds = time.process_time() - start
    compiled = lowered.compile()
    return dict(
        case=name,
        length=length,
        lowering_s=round(seconds, 2),
        compile_s=round(time.process_time() - start - seconds, 2),
        **ahead_of_time.sizes(compiled),
    )


if __name__ == "__main__":
    wanted = [(name, length) for name in cases(sys.argv[1]) for length in LENGTHS]
    ahead_of_time.main("recurrence_kernels", sys.argv[1:], wanted, row)
