"""What compilers make of the kernels over block maps, forward and backward, for devices that are not here.

    python -m benchmarks.block_attention H200    needs the wheels of `benchmarks.gpu_kernels`
    python -m benchmarks.block_attention v5e     or v5p or v6e: needs libtpu

Nothing runs, so there is no time here: temporaries, code, and on a GPU registers and spills. Memory must grow with the
length and with the blocks that are not empty, and code with neither, nor with how many different masks there are (a
program holds them beside its code, on a TPU a bit a pair).
"""

import sys

from benchmarks import ahead_of_time  # first: it sets the environment

import jax
import numpy as np

from arch.kernels.block_attention.flash import attend
from arch.kernels.block_attention.visits import visits
from arch.ops.patterns import BlockMap, Pattern, block_map, causal, global_tokens, random_blocks, window

HEADS, KV_HEADS, CHANNELS, BLOCK = 8, 2, 128, (128, 128)


def pattern(name: str, length: int) -> Pattern:
    """A window as Mistral's, BigBird's blocks of 64, or a window and places at random, whose masks all differ."""
    places = np.sort(np.random.default_rng(0).choice(length, 64, replace=False))
    return {
        "window": lambda: causal & window(1024),
        "BigBird": lambda: window(97) | global_tokens(*range(128)) | random_blocks(3, seed=0, size=64),
        "many masks": lambda: window(97) | global_tokens(*map(int, places)),
    }[name]()


CASES = [("window", 8192), ("window", 32768), ("BigBird", 8192), ("BigBird", 32768), ("many masks", 8192)]


def lower(target: str, map_: BlockMap):
    """The lowered attention of a row of bfloat16, with its gradients."""
    whole = ahead_of_time.on_one(target)
    t = map_.query_length
    array = lambda *shape, dtype="bfloat16": jax.ShapeDtypeStruct(shape, dtype, sharding=whole)
    keys, queries = array(1, t, KV_HEADS, CHANNELS), array(1, t, HEADS, CHANNELS)

    def run(query, key, value, *gradients):
        function = lambda *arrays: attend(*arrays, map_, kernels=ahead_of_time.kernels(target))
        results, pull = jax.vjp(function, query, key, value)
        return results, pull(gradients)

    return jax.jit(run).lower(queries, keys, keys, queries, array(1, HEADS, t, dtype="float32"))


def row(target: str, name: str, length: int) -> dict:
    """What the compiled program needs, and what its lists hold."""
    map_ = block_map(pattern(name, length), length, length, block=BLOCK)
    compiled = lower(target, map_).compile()
    lists = visits(map_.lists), visits(map_.transposed().lists)
    return dict(
        pattern=name,
        length=length,
        blocks=len(map_.lists.blocks),
        visits=[found.count for found in lists],
        masks=len(map_.masks),
        list_bytes=sum(array.nbytes for found in lists for array in vars(found).values() if hasattr(array, "nbytes")),
        mask_bytes=map_.masks.nbytes,
        **ahead_of_time.sizes(compiled),
    )


if __name__ == "__main__":
    shape = dict(heads=HEADS, kv_heads=KV_HEADS, channels=CHANNELS, dtype="bfloat16", block=BLOCK)
    ahead_of_time.main("block_attention", sys.argv[1:], CASES, row, **shape)
