"""Flash attention over a block map on Hopper GPUs, the forward pass.

    S = Q K^T,    m' = max(m, rowmax S),    l' = 2^(m - m') l + rowsum 2^(S - m'),    O' = 2^(m - m') O + 2^(S - m') V

Shah et al., FlashAttention-3, 2024, arXiv 2407.08608, alg. 1: one warpgroup copies blocks of keys and values by TMA
into a ring, the others multiply on tensor cores, with the weights of the softmax in registers. Which blocks, the list
of the map says. All arrays here are [b length heads channels], whole blocks long.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from arch.kernels import compat
from arch.kernels.block_attention.hopper_backward import backward
from arch.kernels.block_attention.hopper_logits import logits_of
from arch.kernels.block_attention.hopper_parts import (
    MOST_READERS,
    ROWS,
    Launch,
    add_product,
    divide,
    filled,
    product,
    span,
    spread,
    start,
)
from arch.kernels.block_attention.rule import LEAST, LOG2E, Extras, Rule, Tables, column_of
from arch.kernels.ring import Ring
from arch.kernels.warpgroups import tile

__all__ = ["HEADS_FIRST", "backward", "forward", "misfit", "stored"]

DTYPES = (jnp.dtype(jnp.bfloat16), jnp.dtype(jnp.float16))
HEADS_FIRST = False
SIZES = (ROWS, ROWS * MOST_READERS)


def misfit(dtype, channels: tuple[int, int], block: tuple[int, int]) -> str:
    """Why the kernels do not take these operands; '' if they do.

    Args:
      dtype: of query, key and value.
      channels: of queries and keys, and of values.
      block: queries and keys.
    """
    if dtype not in DTYPES:
        return f"query.dtype={dtype} must be one of bfloat16, float16: wgmma has no float32"
    for name, sizes in (("channels", channels), ("block", block)):
        if any(size not in SIZES for size in sizes):
            return f"{name}={sizes} must be {' or '.join(map(str, SIZES))} each"
    return ""


def stored(masks: np.ndarray) -> np.ndarray:
    """int8 of bool [u rows columns]."""
    return masks.astype(np.int8)


def forward(rule: Rule, query, key, value, extras: Extras, tables: Tables):
    """(out [b t n v], logsumexp [b n t] in base e) of query [b t n h], key [b s k h], value [b s k v]."""
    pl, plgpu = compat.modules()
    launch = rule.launch or Launch()
    (b, t, n, h), v, bq, bk = query.shape, value.shape[-1], rule.queries, rule.keys
    readers, lists = bq // ROWS, tables.by_rows
    size = query.dtype.itemsize
    slots = launch.ring(size * bk * (h + v), size * bq * (h + (v if v != h else 0)) + 4 * bq)

    def kernel(refs):
        ring, thread = Ring(slots, refs["full"], refs["empty"]), lax.axis_index("thread")
        head, batch = lax.axis_index("head"), lax.axis_index("batch")
        lane = head if len(lists.place) > 1 else 0
        row = refs["order"][lane, lax.axis_index("row")]
        begin, partial, end = span(refs, lane, row)
        kv_head = lax.div(head, n // key.shape[2])

        def copy():
            def copy_one(i, _):
                keys = pl.ds(column_of(refs["place"][lane, begin + i]) * bk, bk)
                parts = ((refs[name].at[batch, keys, kv_head], refs[f"{name}_ring"]) for name in ("key", "value"))
                ring.fill(i, *parts)

            lax.fori_loop(0, end - begin, copy_one, None)
            ring.finish(end - begin)

        def multiply():
            top_row = pl.multiple_of(row * bq + thread * ROWS, ROWS)
            mine = pl.ds(top_row, ROWS)
            queries, arrived = refs["query_tile"].at[thread], refs["arrived"].at[thread]
            plgpu.copy_gmem_to_smem(refs["query"].at[batch, mine, head], queries, arrived)
            plgpu.barrier_wait(arrived)

            def visit(masked, i, carry):
                sums, top, total = carry
                slot = ring.await_full(i)
                products = product(queries, refs["key_ring"].at[slot].transpose((1, 0)), bk)
                place, flags = refs["place"][lane, begin + i], refs["flags"][lane, begin + i]
                at = dict(batch=batch, head=head, query=top_row, key=column_of(place) * bk)
                logits, _ = logits_of(rule, refs, products, at, (flags, thread * ROWS, 0) if masked else None)
                new = jnp.maximum(top, jnp.max(logits, axis=1))
                shrink = jnp.exp2(top - new)
                weights = jnp.exp2(logits - spread(new, logits.shape, 0))
                total = total * shrink + jnp.sum(weights, axis=1)
                sums = sums * spread(shrink, sums.shape, 0)
                sums = add_product(sums, weights.astype(value.dtype), refs["value_ring"].at[slot], launch.interpret)
                ring.let_go(i)
                return sums, new, total

            sink = refs["sinks"][head] * LOG2E if "sinks" in refs else LEAST
            carry = filled((ROWS, v), 0.0), filled((ROWS,), sink), filled((ROWS,), float("sinks" in refs))
            carry = lax.fori_loop(0, partial - begin, lambda i, carry: visit(False, i, carry), carry)
            carry = lax.fori_loop(partial - begin, end - begin, lambda i, carry: visit(True, i, carry), carry)
            sums, top, total = carry
            none = total == 0.0
            safe = jnp.where(none, 1.0, total)
            tile_of_out = refs.get("out_tile", refs["query_tile"]).at[thread]
            tile_of_out[...] = (sums / spread(safe, sums.shape, 0)).astype(query.dtype)
            refs["row_tile"][thread] = jnp.where(none, -jnp.inf, (top + jnp.log2(safe)) * (1 / LOG2E))
            plgpu.commit_smem()
            plgpu.copy_smem_to_gmem(tile_of_out, refs["out"].at[batch, mine, head])
            plgpu.copy_smem_to_gmem(refs["row_tile"].at[thread], refs["logsumexp"].at[batch, head, mine])

        divide(thread, readers, copy, multiply)

    full, empty = Ring.barriers(slots, copies=2, readers=readers)
    found = start(
        "block_attention",
        kernel,
        {
            "out": jax.ShapeDtypeStruct((b, t, n, v), query.dtype),
            "logsumexp": jax.ShapeDtypeStruct((b, n, t), jnp.float32),
        },
        dict(query=query, key=key, value=value, **lists._asdict(), **extras._asdict()),
        {
            "query_tile": tile(readers, ROWS, h, dtype=query.dtype),
            **({"out_tile": tile(readers, ROWS, v, dtype=query.dtype)} if v != h else {}),
            "key_ring": tile(slots, bk, h, dtype=key.dtype),
            "value_ring": tile(slots, bk, v, dtype=value.dtype),
            "row_tile": plgpu.SMEM((readers, ROWS), jnp.float32),
            "full": full,
            "empty": empty,
            "arrived": plgpu.Barrier(num_barriers=readers),
        },
        grid=(n, t // bq, b),
        readers=readers,
        launch=launch,
    )
    return found["out"], found["logsumexp"]
