"""Attention to a cache on TPU: one grid step for each block of keys, and copies of none but the filled ones.

    S = q K_j^T,   m' = max(m, rowmax S),   l' = 2^(m - m') l + rowsum 2^(S - m'),   O' = 2^(m - m') O + 2^(S - m') V_j

Where each row's keys begin and end lies in scalar memory before the kernel starts (`pltpu.PrefetchScalarGridSpec`).
A step behind the last filled block names that one again, and so copies and computes nothing. A core has nobody to share
a row's keys with, so there is one part.
"""

import jax
import jax.numpy as jnp
from jax import lax

from arch.kernels import compat
from arch.kernels.block_attention.rule import LEAST
from arch.typing import Array

DTYPES = (jnp.dtype(jnp.float32), jnp.dtype(jnp.bfloat16))
ROWS = 16  # of a register of bfloat16
MOST_ROWS = 256
BLOCK = 512
NT, NN = (((1,), (1,)), ((), ())), (((1,), (0,)), ((), ()))


def misfit(dtype, channels: tuple[int, int], rows: int, slots: int) -> str:
    """Why the kernel does not take these operands; '' if it does."""
    if dtype not in DTYPES:
        return f"query.dtype={dtype} must be one of float32, bfloat16"
    if rows > MOST_ROWS:
        return f"{rows} queries of a key-value head must be at most {MOST_ROWS}"
    return ""


def block(slots: int) -> int:
    """Keys of a block, in a cache of so many slots; the last one may reach behind its end."""
    return min(BLOCK, slots)


def forward(rule, query: Array, key: Array, value: Array, places: Array, first: Array, end: Array):
    """(out [b k 1 r v], logsumexp [b k 1 r] in base 2) of query [b k r h], both in float32."""
    pl, pltpu = compat.tpu()
    (b, k, r, h), v, bk = query.shape, value.shape[-1], rule.block
    blocks = -(-rule.slots // bk)

    def body(first, end, query, key, value, places, out, logsumexp, top, total, sums):
        row, step = pl.program_id(0), pl.program_id(2)

        @pl.when(step == 0)
        def _():
            top[...] = jnp.full_like(top, LEAST)
            total[...] = jnp.zeros_like(total)
            sums[...] = jnp.zeros_like(sums)

        @pl.when(first[row] + step < end[row])
        def _():
            begin = (first[row] + step) * bk
            slot = begin + lax.broadcasted_iota(jnp.int32, (r, bk), 1)
            logits = rule.logits(_dot(query[0, 0], key[0, 0], NT), places[0], slot)
            values = value[0, 0]
            if rule.slots % bk:  # what lies behind the end may be not-a-number
                inside = begin + lax.broadcasted_iota(jnp.int32, values.shape, 0) < rule.slots
                values = jnp.where(inside, values, jnp.zeros_like(values))
            higher = jnp.maximum(top[...], jnp.max(logits, axis=1, keepdims=True))
            weights, shrink = jnp.exp2(logits - higher), jnp.exp2(top[...] - higher)
            top[...] = higher
            total[...] = total[...] * shrink + jnp.sum(weights, axis=1, keepdims=True)
            sums[...] = sums[...] * shrink + _dot(weights.astype(values.dtype), values, NN)

        @pl.when(step == blocks - 1)
        def _():
            none = total[...] == 0.0
            safe = jnp.where(none, 1.0, total[...])
            out[0, 0] = sums[...] / safe
            logsumexp[0, 0] = jnp.where(none, LEAST, top[...] + jnp.log2(safe))

    def of_keys(row, head, step, first, end):
        return row, head, jnp.minimum(first[row] + step, jnp.maximum(end[row] - 1, 0)), 0

    of_rows = lambda row, head, step, first, end: (row, head, 0, 0)
    shapes = (b, k, r, v), (b, k, r, 1)
    nbytes = sum(array.size * array.dtype.itemsize for array in (query, key, value))
    pairs = b * k * r * rule.slots
    out, logsumexp = pl.pallas_call(
        body,
        name="decode_attention",
        out_shape=[jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes],
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=2,
            grid=(b, k, blocks),
            in_specs=[
                pl.BlockSpec((1, 1, r, h), of_rows),
                pl.BlockSpec((1, 1, bk, h), of_keys),
                pl.BlockSpec((1, 1, bk, v), of_keys),
                pl.BlockSpec((1, r, 1), lambda row, head, step, first, end: (row, 0, 0)),
            ],
            out_specs=[pl.BlockSpec((1, 1, *shape[2:]), of_rows) for shape in shapes],
            scratch_shapes=[pltpu.VMEM(shape, jnp.float32) for shape in ((r, 1), (r, 1), (r, v))],
        ),
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel", "parallel", "arbitrary")),
        cost_estimate=pl.CostEstimate(flops=2 * pairs * (h + v), transcendentals=pairs, bytes_accessed=nbytes),
        interpret=rule.launch or False,
    )(first, end, query, key, value, places[..., None])
    return out[:, :, None], logsumexp[:, :, None, :, 0]


def _dot(a, b, dimensions):
    """In float32, of float32 in full."""
    precision = lax.Precision.HIGHEST if a.dtype == jnp.float32 else lax.Precision.DEFAULT
    return lax.dot_general(a, b, dimensions, precision=precision, preferred_element_type=jnp.float32)
