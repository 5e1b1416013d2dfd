"""What compilers make of the kernel of attention to a cache, for devices that are not here.

    python -m benchmarks.decode_attention H200    needs the wheels of `benchmarks.gpu_kernels`
    python -m benchmarks.decode_attention v5e     or v5p or v6e: needs libtpu

Nothing runs, so there is no time here: temporaries, code, and on a GPU registers and spills. Neither code nor what is
needed beside the cache may grow with the cache.
"""

import sys

from benchmarks import ahead_of_time  # first: it sets the environment

import jax

from arch.kernels.decode_attention.decode import attend

ROWS, HEADS, KV_HEADS, CHANNELS = 4, 32, 8, 128
KINDS = {"one token": dict(tokens=1), "window": dict(tokens=1, window=4096), "four tokens": dict(tokens=4)}
"""The sizes of Mistral 7B and LLaMA 3 8B; several tokens, as speculative decoding has them, with soft cap and sinks."""
CASES = [(name, slots) for name in KINDS for slots in (8192, 131072)]


def row(target: str, name: str, slots: int) -> dict:
    """What the compiled program needs."""
    whole, given = ahead_of_time.on_one(target), dict(KINDS[name])
    tokens = given.pop("tokens")
    array = lambda *shape, dtype="bfloat16": jax.ShapeDtypeStruct(shape, dtype, sharding=whole)
    cache = array(ROWS, KV_HEADS, slots, CHANNELS)
    more = (array(HEADS, dtype="float32"),) if tokens > 1 else ()

    def run(query, key, value, place, *sinks):
        extras = dict(sinks=sinks[0], soft_cap=30.0) if sinks else {}
        return attend(query, key, value, place, kernels=ahead_of_time.kernels(target), **given, **extras)

    arrays = array(ROWS, tokens, HEADS, CHANNELS), cache, cache, array(ROWS, tokens, dtype="int32")
    compiled = jax.jit(run).lower(*arrays, *more).compile()
    return dict(case=name, slots=slots, **ahead_of_time.sizes(compiled))


if __name__ == "__main__":
    shape = dict(batch=ROWS, heads=HEADS, kv_heads=KV_HEADS, channels=CHANNELS, dtype="bfloat16")
    ahead_of_time.main("decode_attention", sys.argv[1:], CASES, row, **shape)
