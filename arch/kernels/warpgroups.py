"""How a Hopper kernel is run: one warpgroup copies, two multiply, and each thread block takes its share of the tiles.

Shared memory holds what `wgmma` reads, 16 bit numbers in tiles that both it and TMA know; sums stay in registers, of
which the copying warpgroup needs few and gives the others the rest.
"""

import dataclasses

import jax.numpy as jnp
from jax import lax

from arch.kernels import compat

READERS = 2  # warpgroups that multiply; each has 64 rows of a tile, what one wgmma takes
ROWS = 64 * READERS
DEPTH = 64  # of one step: 128 bytes of 16 bit numbers, the widest swizzle


@dataclasses.dataclass(frozen=True)
class Launch:
    """How the kernels are started.

    Attributes:
      columns: of a tile, a multiple of 64, at most 256; 0 for the most that the result fills.
      slots: of the ring.
      blocks: thread blocks at most; one for each of an H200's multiprocessors.
      interpret: `plgpu.InterpretGPUParams` to run on CPU; None on a GPU.
    """

    columns: int = 0
    slots: int = 3
    blocks: int = 132
    interpret: object = None

    def width(self, n: int) -> int:
        """Columns of a tile of a result with n columns."""
        return self.columns or max(c for c in (64, 128, 256) if c <= max(n, 64))


def over_share(tiles, blocks, over_tile):
    """Runs `over_tile(tile, step) -> step` over this thread block's tiles: every so many-th."""
    block = lax.axis_index("block")
    mine = lax.div(tiles - block + (blocks - 1), blocks)
    return lax.fori_loop(0, mine, lambda i, step: over_tile(block + i * blocks, step), jnp.int32(0))


def divide(ring, thread, copy, multiply):
    """The last warpgroup copies, with few registers; the others multiply, with what it leaves them.

    Args:
      ring: between them.
      thread: the index of this warpgroup.
      copy: fills the ring and returns the number of its steps.
      multiply: reads them.
    """
    pl, plgpu = compat.modules()

    @pl.when(thread == READERS)
    def _():
        plgpu.set_max_registers(40, action="decrease")
        ring.finish(copy())

    @pl.when(thread < READERS)
    def _():
        plgpu.set_max_registers(232, action="increase")
        multiply()
        plgpu.wait_smem_to_gmem(0)


def let_go_before(ring, i, step):
    """Lets the step before the i-th go, once its product is done; the i-th goes on."""
    pl, plgpu = compat.modules()
    plgpu.wgmma_wait(1)
    pl.when(i > 0)(lambda: ring.let_go(step + i - 1))


def tile(*shape, dtype):
    """Shared memory laid out for wgmma and TMA: in tiles of 8 rows by 128 bytes, swizzled."""
    _, plgpu = compat.modules()
    return plgpu.SMEM(shape, dtype, transforms=(plgpu.TilingTransform((8, 64)), plgpu.SwizzleTransform(128)))


def numbers(shape, axis):
    """0, 1, 2 ... along this axis, in registers as wgmma's sums are."""
    _, plgpu = compat.modules()
    return plgpu.layout_cast(lax.broadcasted_iota(jnp.int32, shape, axis), plgpu.Layout.WGMMA)


def start(name, kernel, out, scratch, blocks, launch):
    """The kernel, of this name to profilers, as a function of its operands; `out` is what it writes."""
    _, plgpu = compat.modules()
    return plgpu.kernel(
        kernel,
        kernel_name=name,
        out_type=out,
        scratch_types=scratch,
        grid=(blocks,),
        grid_names=("block",),
        num_threads=READERS + 1,
        thread_name="thread",
        interpret=launch.interpret,
    )
