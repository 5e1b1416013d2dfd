"""Attention to a cache on Hopper GPUs: the filled blocks of a row's keys are shared out among thread blocks.

Each has a row, a key-value head and a part of the blocks, all parts as long: one warpgroup copies keys and values by
TMA into a ring, the other multiplies on tensor cores, with up to 64 queries as the rows of its tile. What a step of
decoding waits for is the memory that keys and values come from, so that rows of a tile without a query cost nothing.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jax import lax

from arch.kernels import compat
from arch.kernels.block_attention import hopper_parts
from arch.kernels.block_attention.hopper_parts import ROWS, add_product, divide, filled, product, spread, start, vector
from arch.kernels.block_attention.rule import LEAST
from arch.kernels.ring import Ring
from arch.kernels.warpgroups import numbers, tile
from arch.typing import Array

__all__ = ["ROWS", "block", "forward", "misfit"]

DTYPES = (jnp.dtype(jnp.bfloat16), jnp.dtype(jnp.float16))
CHANNELS = (64, 128)
BLOCK = 64
TILE = 8  # rows of a tile of shared memory: Mosaic copies only from multiples of it
MULTIPROCESSORS = 132


@dataclasses.dataclass(frozen=True)
class Launch(hopper_parts.Launch):
    """How the kernel is started.

    Attributes:
      parts: of a row's keys; 0 for as many as keep the multiprocessors of an H200 busy.
    """

    parts: int = 0

    def split(self, tasks: int, blocks: int) -> int:
        """Into how many parts the blocks of each of so many tasks go."""
        return self.parts or max(1, min(blocks, -(-MULTIPROCESSORS // tasks)))


def misfit(dtype, channels: tuple[int, int], rows: int, slots: int) -> str:
    """Why the kernel does not take these operands; '' if it does."""
    if dtype not in DTYPES:
        return f"query.dtype={dtype} must be one of bfloat16, float16: wgmma has no float32"
    if any(size not in CHANNELS for size in channels):
        return f"{channels=} must be 64 or 128 each"
    if rows > ROWS:
        return f"{rows} queries of a key-value head must be at most {ROWS}"
    if slots < BLOCK or slots % TILE:
        return f"a cache of {slots} slots must have at least {BLOCK}, and a multiple of {TILE}"
    return ""


def block(slots: int) -> int:
    """Keys of a block."""
    return BLOCK


def forward(rule, query: Array, key: Array, value: Array, places: Array, first: Array, end: Array):
    """(out [b k p r v], logsumexp [b k p r] in base 2) of query [b k r h], both in float32."""
    pl, plgpu = compat.modules()
    launch = rule.launch or Launch()
    (b, k, _, h), v, dtype = query.shape, value.shape[-1], query.dtype
    parts = launch.split(b * k, -(-rule.slots // BLOCK))
    slots = launch.ring(2 * BLOCK * (h + v), 2 * ROWS * h + 4 * ROWS * v + 4 * ROWS)

    def kernel(refs):
        ring, thread = Ring(slots, refs["full"], refs["empty"]), lax.axis_index("thread")
        head, part, batch = (lax.axis_index(name) for name in ("head", "row", "batch"))
        share = lax.div(refs["end"][batch] - refs["first"][batch] + (parts - 1), parts)
        begin = refs["first"][batch] + part * share
        steps = lax.max(lax.min(share, refs["end"][batch] - begin), 0)
        slot_of = lambda i: lax.min((begin + i) * BLOCK, rule.slots - BLOCK)  # the last block ends with the cache

        def copy():
            def copy_one(i, _):
                keys = pl.ds(slot_of(i), BLOCK)
                ring.fill(i, *((refs[name].at[batch, head, keys], refs[f"{name}_ring"]) for name in ("key", "value")))

            lax.fori_loop(0, steps, copy_one, None)
            ring.finish(steps)

        def multiply():
            plgpu.copy_gmem_to_smem(refs["query"].at[batch, head], refs["query_tile"], refs["arrived"])
            plgpu.barrier_wait(refs["arrived"])
            places = spread(vector(refs["places"].at[batch], 0), (ROWS, BLOCK), 0)

            def visit(i, carry):
                sums, top, total = carry
                slot = ring.await_full(i)
                products = product(refs["query_tile"], refs["key_ring"].at[slot].transpose((1, 0)), BLOCK)
                keys = slot_of(i) + numbers((ROWS, BLOCK), 1)
                logits = rule.logits(products, places, keys, (begin + i) * BLOCK)
                new = jnp.maximum(top, jnp.max(logits, axis=1))
                shrink = jnp.exp2(top - new)
                weights = jnp.exp2(logits - spread(new, logits.shape, 0))
                total = total * shrink + jnp.sum(weights, axis=1)
                sums = sums * spread(shrink, sums.shape, 0)
                sums = add_product(sums, weights.astype(dtype), refs["value_ring"].at[slot], launch.interpret)
                ring.let_go(i)
                return sums, new, total

            carry = filled((ROWS, v), 0.0), filled((ROWS,), LEAST), filled((ROWS,), 0.0)
            sums, top, total = lax.fori_loop(0, steps, visit, carry)
            none = total == 0.0
            safe = jnp.where(none, 1.0, total)
            refs["out_tile"][...] = sums / spread(safe, sums.shape, 0)
            refs["row_tile"][...] = jnp.where(none, LEAST, top + jnp.log2(safe))
            plgpu.commit_smem()
            plgpu.copy_smem_to_gmem(refs["out_tile"], refs["out"].at[batch, head, part])
            plgpu.copy_smem_to_gmem(refs["row_tile"], refs["logsumexp"].at[batch, head, part])

        divide(thread, 1, copy, multiply)

    full, empty = Ring.barriers(slots, copies=2, readers=1)
    found = start(
        "decode_attention",
        kernel,
        {
            "out": jax.ShapeDtypeStruct((b, k, parts, ROWS, v), jnp.float32),
            "logsumexp": jax.ShapeDtypeStruct((b, k, parts, ROWS), jnp.float32),
        },
        dict(query=query, key=key, value=value, places=places, first=first, end=end),
        {
            "query_tile": tile(ROWS, h, dtype=dtype),
            "key_ring": tile(slots, BLOCK, h, dtype=dtype),
            "value_ring": tile(slots, BLOCK, v, dtype=dtype),
            "out_tile": plgpu.SMEM(
                (ROWS, v), jnp.float32, transforms=(plgpu.TilingTransform((8, 32)), plgpu.SwizzleTransform(128))
            ),
            "row_tile": plgpu.SMEM((ROWS,), jnp.float32),
            "full": full,
            "empty": empty,
            "arrived": plgpu.Barrier(),
        },
        grid=(k, parts, b),
        readers=1,
        launch=launch,
    )
    return found["out"], found["logsumexp"]
