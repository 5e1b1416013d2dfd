"""Decayed linear attention on Hopper GPUs, the forward pass: a thread block has a head and 64 channels of its values.

The equations are in `decayed`. One warpgroup copies chunks of 64 tokens by TMA into a ring; the other multiplies on
tensor cores, from the first chunk to the last, with the state in registers, and a copy of it in shared memory to
multiply by. All arrays here are [b length heads channels], whole spans long.
"""

import jax
import jax.numpy as jnp
from jax import lax

from arch.kernels import compat
from arch.kernels.block_attention.hopper_parts import ROWS, add_product, divide, product, start
from arch.kernels.linear_attention.hopper_backward import backward
from arch.kernels.linear_attention.hopper_parts import (
    SLICE,
    Decays,
    Launch,
    float_tile,
    load,
    read,
    rows_copies,
    rows_tiles,
    store,
)
from arch.kernels.linear_attention.plan import Plan, Tokens
from arch.kernels.ring import Ring
from arch.kernels.warpgroups import tile

__all__ = ["HEADS_FIRST", "backward", "forward", "misfit", "plan"]

DTYPES = (jnp.dtype(jnp.bfloat16),)
HEADS_FIRST = False
MOST_CHUNKS = {64: 4, 128: 2}
"""Of a span, by channels of a key: the states that enter them lie in shared memory."""


def misfit(dtype, channels: tuple[int, int]) -> str:
    """Why the kernels do not take operands of this dtype, and channels of a key and a value; '' if they do."""
    if dtype not in DTYPES:
        return f"query.dtype={dtype} must be bfloat16: wgmma has no float32, and sums of float16 overflow"
    if channels[0] not in MOST_CHUNKS or channels[1] % SLICE:
        return f"{channels=} of a key and a value must be 64 or 128, and a multiple of {SLICE}"
    return ""


def plan(length: int, channels: tuple[int, int], group: int, launch: object) -> Plan:
    """Of rows of so many tokens: spans of as many chunks as shared memory has room for the states of."""
    most = (launch or Launch()).chunks or MOST_CHUNKS[channels[0]]
    return Plan.of(length, chunk=ROWS, most=most, members=1, launch=launch)


def forward(plan: Plan, tokens: Tokens, state):
    """(out [b t n v], last state [b n h v], the states that enter each span [b n spans h v])."""
    pl, plgpu = compat.modules()
    launch, dtype = plan.launch or Launch(), tokens.value.dtype
    (b, _, k, h), (n, v) = tokens.query.shape, tokens.value.shape[2:]
    count, group = plan.chunks * plan.spans, n // k
    slots = launch.ring(2 * ROWS * (2 * h + SLICE) + 16 * ROWS, 2 * SLICE * (h + 2 * ROWS) + 4 * ROWS * SLICE)

    def kernel(refs):
        ring, thread = Ring(slots, refs["full"], refs["empty"]), lax.axis_index("thread")
        head, batch, columns = lax.axis_index("head"), lax.axis_index("batch"), _columns()

        def copy():
            def copy_one(i, _):
                mine = pl.ds(pl.multiple_of(i * ROWS, ROWS), ROWS)
                parts = {name: refs[name].at[batch, mine, lax.div(head, group)] for name in ("query", "key")}
                parts["value"] = refs["value"].at[batch, mine, head, columns]
                copies = [(part, refs[f"{name}_ring"]) for name, part in parts.items()]
                ring.fill(i, *copies, *rows_copies(refs, batch, head, mine))

            lax.fori_loop(0, count, copy_one, None)
            ring.finish(jnp.int32(count))

        def multiply():
            def chunk(i, state):
                slot = ring.await_full(i)
                query, key, value = (refs[f"{name}_ring"].at[slot] for name in ("query", "key", "value"))
                decays = Decays.read(refs, slot)

                @pl.when(lax.rem(i, plan.chunks) == 0)
                def _():
                    store(refs, state, refs["entries"].at[batch, head, lax.div(i, plan.chunks), :, columns])

                plgpu.wait_smem_to_gmem(0, wait_read_only=True)
                for part, rows in zip(state, range(0, h, ROWS)):
                    refs["state_tile"].at[pl.ds(rows, ROWS)][...] = part.astype(dtype)
                refs["left_tile"][...] = (read(value) * decays.spread("leaving")).astype(dtype)
                plgpu.commit_smem()
                weights = product(query, key.transpose((1, 0)), ROWS) * decays.within
                out = product(query, refs["state_tile"], SLICE) * decays.spread("entering")
                out = add_product(out, weights.astype(dtype), value, launch.interpret)
                refs["out_tile"][...] = out.astype(dtype)
                after = []
                for part, rows in zip(state, range(0, h, ROWS)):
                    written = product(key.at[:, pl.ds(rows, ROWS)].transpose((1, 0)), refs["left_tile"], SLICE)
                    after.append(decays.across * part + written)
                plgpu.commit_smem()
                mine = pl.ds(pl.multiple_of(i * ROWS, ROWS), ROWS)
                plgpu.copy_smem_to_gmem(refs["out_tile"], refs["out"].at[batch, mine, head, columns])
                ring.let_go(i)
                return tuple(after)

            parts = (refs["state"].at[batch, head, pl.ds(rows, ROWS), columns] for rows in range(0, h, ROWS))
            entering = tuple(map(load, parts))
            store(refs, lax.fori_loop(0, count, chunk, entering), refs["last"].at[batch, head, :, columns])

        divide(thread, 1, copy, multiply)

    full, empty = Ring.barriers(slots, copies=7, readers=1)
    float32 = lambda *shape: jax.ShapeDtypeStruct(shape, jnp.float32)
    found = start(
        "decayed_attention",
        kernel,
        {
            "out": jax.ShapeDtypeStruct(tokens.value.shape, dtype),
            "last": float32(b, n, h, v),
            "entries": float32(b, n, plan.spans, h, v),
        },
        tokens._asdict() | {"state": state},
        {
            "query_ring": tile(slots, ROWS, h, dtype=dtype),
            "key_ring": tile(slots, ROWS, h, dtype=dtype),
            "value_ring": tile(slots, ROWS, SLICE, dtype=dtype),
            **rows_tiles(slots),
            "state_tile": tile(h, SLICE, dtype=dtype),
            "left_tile": tile(ROWS, SLICE, dtype=dtype),
            "out_tile": tile(ROWS, SLICE, dtype=dtype),
            "float_tile": float_tile(),
            "full": full,
            "empty": empty,
        },
        grid=(n, v // SLICE, b),
        readers=1,
        launch=launch,
    )
    return found["out"], found["last"], found["entries"]


def _columns():
    """Of the values: those of this thread block."""
    pl, _ = compat.modules()
    return pl.ds(pl.multiple_of(lax.axis_index("row") * SLICE, SLICE), SLICE)
