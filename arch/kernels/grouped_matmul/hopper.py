"""Grouped matrix product on Hopper GPUs: tensor cores (wgmma), copies by TMA, forward and both gradients.

    y_i = x_i W_{e(i)}      dx_i = dy_i W_{e(i)}^T      dW_e = sum_{i in e} x_i^T dy_i

as in `arch.ops.grouped_matmul`. Thread blocks walk over tiles of the result; in each, one warpgroup copies and two
multiply (`arch.kernels.warpgroups`). A tile of y may lie across groups: it is multiplied by the weight of each group
that it meets, and each row is kept from its own. So every row of y is written once, by one thread block, zero where no
group has it. A tile of dW runs over the blocks of rows that its group meets; other rows in them are zeroed in shared
memory.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from arch.kernels import compat
from arch.kernels.ring import Ring
from arch.kernels.warpgroups import (
    DEPTH,
    READERS,
    ROWS,
    Launch,
    divide,
    let_go_before,
    numbers,
    over_share,
    start,
    tile,
)
from arch.typing import Array, Float, Int


DTYPES = (jnp.dtype(jnp.bfloat16), jnp.dtype(jnp.float16))
MULTIPLE = 64
"""Of channels: what is copied at once is 128 bytes wide."""


def check(x: Array, weight: Array) -> None:
    """Raises ValueError where the kernels do not take these operands, saying why."""
    if not (x.dtype == weight.dtype and x.dtype in DTYPES):
        rule = "must both be bfloat16 or both float16 with implementation='mosaic': wgmma has no float32"
        raise ValueError(f"x.dtype={x.dtype} and weight.dtype={weight.dtype} {rule}")
    for name, size in (("d", weight.shape[1]), ("f", weight.shape[2])):
        if size % MULTIPLE:
            rule = f"must be a multiple of {MULTIPLE} with implementation='mosaic'"
            raise ValueError(f"{name}={size} of weight [e d f] {rule}")


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def grouped_matmul(
    x: Float[Array, "m d"], weight: Float[Array, "e d f"], group_sizes: Int[Array, "e"], launch: Launch = Launch()
) -> Float[Array, "m f"]:
    """As `arch.ops.grouped_matmul.grouped_matmul`; operands as `check` wants them."""
    return _forward(x, weight, group_sizes, launch)[0]


def _forward(x, weight, group_sizes, launch):
    check(x, weight)
    y = rows_by_weights(_in_eights(x), weight, group_sizes, launch)
    return y[: len(x)], (x, weight, group_sizes)


def _backward(launch, residuals, dy):
    x, weight, group_sizes = residuals
    dy = _in_eights(dy)
    dx = rows_by_weights(dy, weight, group_sizes, launch, transposed=True)
    return dx[: len(x)], rows_by_rows(_in_eights(x), dy, group_sizes, launch), None


grouped_matmul.defvjp(_forward, _backward)


def _in_eights(rows):
    """With rows to the next multiple of 8, which is what a tile in shared memory has; none of a group's."""
    more = -len(rows) % 8
    return jnp.pad(rows, ((0, more), (0, 0))) if more else rows


def rows_by_weights(x, weight, group_sizes, launch, *, transposed=False):
    """[m n] each row of x [m k] by its group's weight [e k n], or [e n k] transposed."""
    pl, plgpu = compat.modules()
    (m, k), n = x.shape, weight.shape[1 if transposed else 2]
    width = launch.width(n)
    across, down, steps = pl.cdiv(n, width), pl.cdiv(m, ROWS), pl.cdiv(k, DEPTH)
    blocks = min(launch.blocks, across * down)
    ends = jnp.cumsum(group_sizes, dtype=jnp.int32)
    bounds = jnp.pad(ends, (1, 0))
    tops = jnp.arange(down, dtype=jnp.int32)[:, None] * ROWS
    first = jnp.sum(ends <= tops, axis=1, dtype=jnp.int32)  # groups that end above the tile
    last = jnp.sum(bounds[:-1] < tops + ROWS, axis=1, dtype=jnp.int32)  # those that start above its end

    def kernel(first, last, bounds, x, weight, y, x_ring, weight_ring, y_tile, full, empty):
        ring, thread = Ring(launch.slots, full, empty), lax.axis_index("thread")

        def over_tiles(over_group, before=lambda: None, after=lambda row, column: None):
            """Calls `over_group(row, column, group, step)` for each group that has rows in each tile."""

            def over_tile(index, step):
                row, column = plgpu.planar_snake(index, (down, across), 0, 16)
                before()

                def over(group, step):
                    some = bounds[group] < bounds[group + 1]
                    pl.when(some)(lambda: over_group(row, column, group, step))
                    return step + lax.select(some, steps, 0)

                step = lax.fori_loop(first[row], last[row], over, step)
                after(row, column)
                return step

            return over_share(across * down, blocks, over_tile)

        def copy(row, column, group, step):
            of_n = pl.ds(column * width, width)

            def copy_one(i, _):
                of_k = pl.ds(i * DEPTH, DEPTH)
                part = weight.at[group, of_n, of_k] if transposed else weight.at[group, of_k, of_n]
                ring.fill(step + i, (x.at[pl.ds(row * ROWS, ROWS), of_k], x_ring), (part, weight_ring))

            lax.fori_loop(0, steps, copy_one, None)

        def multiply(row, column, group, step):
            def product(sums):
                def multiply_one(i, _):
                    slot = ring.await_full(step + i)
                    factor = weight_ring.at[slot]
                    mine = x_ring.at[slot, pl.ds(thread * 64, 64)]
                    plgpu.wgmma(sums, mine, factor.transpose((1, 0)) if transposed else factor)
                    let_go_before(ring, i, step)

                lax.fori_loop(0, steps, multiply_one, None)
                total = sums[...]
                ring.let_go(step + steps - 1)
                return total

            total = pl.run_scoped(product, plgpu.ACC((64, width)))
            top = row * ROWS + thread * 64
            for left in range(0, width, 64):
                part = y_tile.at[thread, :, pl.ds(left, 64)]
                index = top + numbers((64, 64), 0)
                own = (index >= bounds[group]) & (index < bounds[group + 1])
                part[...] = jnp.where(own, total[:, left : left + 64].astype(y.dtype), part[...])

        def clear():
            plgpu.wait_smem_to_gmem(0, wait_read_only=True)
            y_tile[thread] = jnp.zeros((64, width), y.dtype)

        def store(row, column):
            plgpu.commit_smem()
            place = y.at[pl.ds(row * ROWS + thread * 64, 64), pl.ds(column * width, width)]
            plgpu.copy_smem_to_gmem(y_tile.at[thread], place)

        divide(ring, thread, lambda: over_tiles(copy), lambda: over_tiles(multiply, clear, store))

    full, empty = Ring.barriers(launch.slots, copies=2, readers=READERS)
    weight_tile = (width, DEPTH) if transposed else (DEPTH, width)
    memory = partial(tile, dtype=x.dtype)
    rings = memory(launch.slots, ROWS, DEPTH), memory(launch.slots, *weight_tile)
    scratch = *rings, memory(READERS, 64, width), full, empty
    name = "grouped_matmul_transposed" if transposed else "grouped_matmul"
    run = start(name, kernel, jax.ShapeDtypeStruct((m, n), x.dtype), scratch, blocks, launch)
    return run(first, last, bounds, x, weight)


def rows_by_rows(x, dy, group_sizes, launch):
    """[e d f] for each group, x^T dy of its rows of x [m d] and dy [m f]."""
    pl, plgpu = compat.modules()
    d, f, e = x.shape[1], dy.shape[1], len(group_sizes)
    width = launch.width(f)
    down, across = pl.cdiv(d, ROWS), pl.cdiv(f, width)
    blocks = min(launch.blocks, e * down * across)
    bounds = jnp.pad(jnp.cumsum(group_sizes, dtype=jnp.int32), (1, 0))

    def kernel(bounds, x, dy, out, x_ring, dy_ring, out_tile, full, empty, masked):
        ring, thread = Ring(launch.slots, full, empty), lax.axis_index("thread")

        def blocks_of(group):
            """The first row to copy and the number of copies: tiles of shared memory begin at multiples of 8 rows."""
            begin, end = bounds[group], bounds[group + 1]
            top = lax.div(begin, 8) * 8
            return top, lax.select(begin < end, lax.div(end - top + (DEPTH - 1), DEPTH), 0)

        def over_tiles(over_tile):
            """Calls `over_tile(group, row, column, step)`."""

            def over(index, step):
                group, place = lax.div(index, down * across), lax.rem(index, down * across)
                over_tile(group, *plgpu.planar_snake(place, (down, across), 0, 16), step)
                return step + blocks_of(group)[1]

            return over_share(e * down * across, blocks, over)

        def copy(group, row, column, step):
            top, steps = blocks_of(group)

            def copy_one(i, _):
                rows = pl.ds(pl.multiple_of(top + i * DEPTH, 8), DEPTH)
                part = x.at[rows, pl.ds(row * ROWS, ROWS)]
                ring.fill(step + i, (part, x_ring), (dy.at[rows, pl.ds(column * width, width)], dy_ring))

            lax.fori_loop(0, steps, copy_one, None)

        def mask(slot, top, group):
            """Zeroes the rows of other groups, or of none, for both readers."""

            @pl.when(thread == 0)
            def _():
                row = top + numbers((DEPTH, 64), 0)
                own = (row >= bounds[group]) & (row < bounds[group + 1])
                for ring_part, wide in ((x_ring, ROWS), (dy_ring, width)):
                    for left in range(0, wide, 64):
                        part = ring_part.at[slot, :, pl.ds(left, 64)]
                        part[...] = jnp.where(own, part[...], jnp.zeros((), x.dtype))
                plgpu.commit_smem()

            plgpu.barrier_arrive(masked)
            plgpu.barrier_wait(masked)

        def multiply(group, row, column, step):
            first, steps = blocks_of(group)

            def product(sums):
                def multiply_one(i, _):
                    slot, top = ring.await_full(step + i), first + i * DEPTH
                    across_bounds = (top < bounds[group]) | (top + DEPTH > bounds[group + 1])
                    pl.when(across_bounds)(lambda: mask(slot, top, group))
                    mine = x_ring.at[slot, :, pl.ds(pl.multiple_of(thread * 64, 64), 64)]
                    plgpu.wgmma(sums, mine.transpose((1, 0)), dy_ring.at[slot])
                    let_go_before(ring, i, step)

                lax.fori_loop(0, steps, multiply_one, None)
                total = sums[...]
                pl.when(steps > 0)(lambda: ring.let_go(step + steps - 1))
                return total

            total = pl.run_scoped(product, plgpu.ACC((64, width)))
            plgpu.wait_smem_to_gmem(0, wait_read_only=True)
            out_tile[thread] = total.astype(out.dtype)
            plgpu.commit_smem()
            place = out.at[group, pl.ds(row * ROWS + thread * 64, 64), pl.ds(column * width, width)]
            plgpu.copy_smem_to_gmem(out_tile.at[thread], place)

        divide(ring, thread, lambda: over_tiles(copy), lambda: over_tiles(multiply))

    full, empty = Ring.barriers(launch.slots, copies=2, readers=READERS)
    memory, masked = partial(tile, dtype=x.dtype), plgpu.Barrier(num_arrivals=READERS)
    rings = memory(launch.slots, DEPTH, ROWS), memory(launch.slots, DEPTH, width)
    scratch = *rings, memory(READERS, 64, width), full, empty, masked
    run = start("grouped_outer_product", kernel, jax.ShapeDtypeStruct((e, d, f), x.dtype), scratch, blocks, launch)
    return run(bounds, x, dy)
