"""How a Hopper kernel runs that multiplies no matrices: a thread block is one warpgroup, whose lanes have the channels.

It goes over the chunks of a row of tokens. What a chunk brings is copied by TMA into one of a few slots of shared
memory, as many chunks ahead as there are slots; what it gives is written to that slot's part of other tiles, and copied
out while the next ones are computed.

Mosaic puts no barrier around what a thread reads and writes in shared memory (`start`): each has numbers of its own,
the same ones whenever a tile is read or written in the same layout. `plgpu.commit_smem` stands between other accesses.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax import lax

from arch.kernels import compat

THREADS = 128  # of a warpgroup


@dataclasses.dataclass(frozen=True)
class Launch:
    """How the kernels are started.

    Attributes:
      slots: chunks that are on their way, or being computed.
      interpret: `plgpu.InterpretGPUParams` to run on CPU; None on a GPU.
    """

    slots: int = 3
    interpret: object = None

    def tiles(self, **kinds: tuple[tuple[int, ...], Any]) -> dict:
        """Shared memory for a part of each of these (shape, dtype), by name, for each slot."""
        _, plgpu = compat.modules()
        return {name: plgpu.SMEM((self.slots, *shape), dtype) for name, (shape, dtype) in kinds.items()}


Copies = Sequence[tuple[Any, Any]]


@dataclasses.dataclass(frozen=True)
class Walk:
    """Over the chunks of a row.

    Attributes:
      chunks: how many.
      slots: see `Launch`.
      full: a barrier for each slot, at which each copy arrives.
      bring: of a chunk, copies from global memory to tiles.
      give: of a chunk, copies from tiles to global memory.
    """

    chunks: int
    slots: int
    full: Any
    bring: Callable[[jax.Array], Copies]
    give: Callable[[jax.Array], Copies]

    def over(self, body: Callable, carry, *, reverse: bool = False):
        """`carry = body(chunk, slot, carry)` from the first chunk to the last, or the other way."""
        pl, plgpu = compat.modules()
        chunk = (lambda step: self.chunks - 1 - step) if reverse else (lambda step: step)

        def fill(step):
            slot = lax.rem(step, self.slots)
            for source, tile in self.bring(chunk(step)):
                plgpu.copy_gmem_to_smem(source, tile.at[slot], self.full.at[slot])

        def over_one(step, carry):
            slot = lax.rem(step, self.slots)
            plgpu.barrier_wait(self.full.at[slot])
            given = self.give(chunk(step))
            plgpu.wait_smem_to_gmem((self.slots - 1) * len(given), wait_read_only=True)
            carry = body(chunk(step), slot, carry)
            plgpu.commit_smem()
            for tile, place in given:
                plgpu.copy_smem_to_gmem(tile.at[slot], place)
            pl.when(step + self.slots < self.chunks)(lambda: fill(step + self.slots))
            return carry

        lax.fori_loop(0, min(self.slots, self.chunks), lambda step, _: fill(step), None)
        carry = lax.fori_loop(0, self.chunks, over_one, carry)
        plgpu.wait_smem_to_gmem(0)
        return carry


class Block:
    """What a thread block has: its channels of one example. A kernel says where they lie.

    Attributes:
      refs: the kernel's, by name; a chunk's part of array `name` goes through tile `name_tile`.
      size: tokens of a chunk.
      batch: of the example.
      index: of the channels.
    """

    def __init__(self, refs, size: int):
        self.refs, self.size = refs, size
        self.batch, self.index = lax.axis_index("batch"), lax.axis_index("block")

    def part(self, name: str, chunk, rows):
        """Of an array in global memory: what it has for a chunk, whose tokens are these rows."""
        raise NotImplementedError

    def walk(self, chunks: int, launch: Launch, bring: Sequence[str], give: Sequence[str]) -> Walk:
        """Over so many chunks, which bring and give parts of these arrays."""
        pl, _ = compat.modules()
        rows = lambda chunk: pl.ds(pl.multiple_of(chunk * self.size, self.size), self.size)
        part = lambda name, chunk: (self.part(name, chunk, rows(chunk)), self.refs[f"{name}_tile"])
        return Walk(
            chunks,
            launch.slots,
            self.refs["full"],
            lambda chunk: [part(name, chunk) for name in bring],
            lambda chunk: [part(name, chunk)[::-1] for name in give],
        )


def start(name, kernel, out, operands, scratch, *, grid, copies, launch):
    """Runs `kernel(refs)`, refs by name, over a grid of ('block', 'batch'); returns what it writes, by name.

    Args:
      name: to profilers.
      kernel: the body; its refs have `Walk.full` too.
      out: shapes of results, by name.
      operands: arrays, by name.
      scratch: types of shared memory, by name.
      grid: sizes.
      copies: that a chunk brings.
      launch: see `Launch`.
    """
    _, plgpu = compat.modules()
    scratch = scratch | {"full": plgpu.Barrier(num_arrivals=copies, num_barriers=launch.slots)}
    names = [*operands, *out, *scratch]
    found = plgpu.kernel(
        lambda *refs: kernel(dict(zip(names, refs, strict=True))),
        kernel_name=name,
        out_type=list(out.values()),
        scratch_types=list(scratch.values()),
        grid=grid,
        grid_names=("block", "batch"),
        compiler_params=plgpu.CompilerParams(approx_math=True, unsafe_no_auto_barriers=True),
        interpret=launch.interpret,
    )(*operands.values())
    return dict(zip(out, found, strict=True))
