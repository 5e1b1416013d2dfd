"""What the Hopper kernels over block maps share: how they start, what they read, and their logits.

A thread block has one row of the map, the longest rows first. One warpgroup copies by TMA, each of the others has 64 of
the row's queries (or by keys, of its keys), and keeps its sums in registers. What a warpgroup needs a few numbers of
(masks of partial blocks, segments, logsumexps) it reads from global memory, straight into the layout of wgmma's sums.
"""

import dataclasses

import jax.numpy as jnp
from jax import lax

from arch.kernels import compat
from arch.kernels.block_attention.visits import VISIBLE

ROWS = 64  # of a warpgroup: what one wgmma takes
MOST_READERS = 2


@dataclasses.dataclass(frozen=True)
class Launch:
    """How the kernels are started.

    Attributes:
      slots: of the ring; 0 for what shared memory holds, at most 4.
      interpret: `plgpu.InterpretGPUParams` to run on CPU; None on a GPU.
    """

    slots: int = 0
    interpret: object = None

    def ring(self, slot_bytes: int, other_bytes: int) -> int:
        """How many slots."""
        return self.slots or max(1, min(4, (SHARED_MEMORY - other_bytes) // slot_bytes))


SHARED_MEMORY = 224 << 10  # of 227 KiB: barriers and rounding take the rest


def start(name, kernel, out, operands, scratch, *, grid, readers, launch):
    """Runs `kernel(refs)`, refs by name, over a grid of ('head', 'row', 'batch'); returns what it writes, by name.

    Args:
      name: to profilers.
      kernel: the body, for each warpgroup.
      out: shapes of results, by name.
      operands: arrays, by name; None for those that are not there.
      scratch: types of shared memory and barriers, by name.
      grid: sizes.
      readers: warpgroups that multiply.
      launch: see `Launch`.
    """
    _, plgpu = compat.modules()
    operands = {name: array for name, array in operands.items() if array is not None}
    names = [*operands, *out, *scratch]
    found = plgpu.kernel(
        lambda *refs: kernel(dict(zip(names, refs, strict=True))),
        kernel_name=name,
        out_type=list(out.values()),
        scratch_types=list(scratch.values()),
        grid=grid,
        grid_names=("head", "row", "batch"),
        num_threads=readers + 1,
        thread_name="thread",
        compiler_params=plgpu.CompilerParams(approx_math=True),
        interpret=launch.interpret,
    )(*operands.values())
    return dict(zip(out, found, strict=True))


def divide(thread, readers, copy, multiply, *, registers: int = 240):
    """The last warpgroup copies, with few registers; the others multiply, with so many."""
    pl, plgpu = compat.modules()

    @pl.when(thread == readers)
    def _():
        plgpu.set_max_registers(24, action="decrease")
        copy()

    @pl.when(thread < readers)
    def _():
        plgpu.set_max_registers(registers, action="increase")
        multiply()
        plgpu.wait_smem_to_gmem(0)


def span(refs, lane, row):
    """Where in its list the row's full blocks begin, its partial ones begin, and it ends."""
    begin, end = refs["begin"][lane, row], refs["begin"][lane, row + 1]
    some = refs["flags"][lane, begin] & VISIBLE != 0
    return begin, refs["partial"][lane, row], lax.select(some, end, begin)


def vector(part, axis):
    """Numbers of global memory in registers, one for each row (axis 0) or column (axis 1) of wgmma's sums."""
    _, plgpu = compat.modules()
    return plgpu.load(part, layout=plgpu.Layout.WGMMA.reduce(1 - axis), optimized=False)


def spread(values, shape, axis):
    """The same number along the other axis."""
    return lax.broadcast_in_dim(values, shape, (axis,))


def filled(shape, value):
    """Registers, as wgmma's sums are."""
    _, plgpu = compat.modules()
    layout = plgpu.Layout.WGMMA if len(shape) == 2 else plgpu.Layout.WGMMA.reduce(1)
    return plgpu.layout_cast(jnp.full(shape, value, jnp.float32), layout)


def product(left, right, width):
    """[64 width] of two tiles in shared memory."""
    pl, plgpu = compat.modules()

    def multiply(sums):
        plgpu.wgmma(sums, left, right)
        return sums[...]

    return pl.run_scoped(multiply, plgpu.ACC((ROWS, width)))


def add_product(sums, left, right, interpret):
    """sums + left right, of registers and a tile in shared memory; JAX's interpreter knows no such wgmma."""
    pl, plgpu = compat.modules()
    if interpret is None:
        return pl.run_state(lambda total: plgpu.wgmma(total, left, right))(plgpu.ACC.init(sums))
    sums = sums + jnp.dot(left, right[...], preferred_element_type=jnp.float32)
    plgpu.commit_smem()  # the read above is no wgmma's: nothing else orders it before the next copy
    return sums
