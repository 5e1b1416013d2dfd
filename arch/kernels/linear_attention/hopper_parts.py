"""What the Hopper kernels of decayed linear attention share: decays of a chunk in registers, and states."""

import dataclasses
from typing import NamedTuple

import jax.numpy as jnp

from arch.kernels import compat
from arch.kernels.block_attention.hopper_parts import ROWS, spread
from arch.kernels.block_attention import hopper_parts
from arch.kernels.block_attention.rule import LOG2E, MASKED
from arch.kernels.warpgroups import numbers
from arch.typing import Array

SLICE = 64
"""Channels of the values that a thread block has."""


@dataclasses.dataclass(frozen=True)
class Launch(hopper_parts.Launch):
    """How the kernels are started.

    Attributes:
      chunks: of a span; 0 for what shared memory has room for.
    """

    chunks: int = 0


class Decays(NamedTuple):
    """Of a chunk of c tokens: W [c c], e [c], l [c] and the last e [] of `decayed`."""

    within: Array
    entering: Array
    leaving: Array
    across: Array

    @staticmethod
    def read(refs, slot) -> "Decays":
        """Of a chunk whose `Tokens.total` and `Tokens.segment` `copies` has brought to this slot."""
        shape = ROWS, ROWS
        row, since = (_vector(refs[f"total_{axis}"].at[slot], axis) for axis in range(2))
        kind, of_others = (_vector(refs[f"segment_{axis}"].at[slot], axis) for axis in range(2))
        total, segment = refs["total_0"].at[slot], refs["segment_0"].at[slot]
        end, last = total[ROWS - 1], segment[ROWS - 1]
        span = spread(row, shape, 0) - spread(since, shape, 1)
        seen = spread(kind, shape, 0) == spread(of_others, shape, 1)
        seen = seen & (numbers(shape, 1) <= numbers(shape, 0))
        within = jnp.exp2(jnp.where(seen, span * LOG2E, MASKED))
        entering = jnp.exp2(jnp.where(kind == 0, row * LOG2E, MASKED))
        leaving = jnp.exp2(jnp.where(kind == last, (end - row) * LOG2E, MASKED))
        return Decays(within, entering, leaving, jnp.exp2(jnp.where(last == 0, end * LOG2E, MASKED)))

    def spread(self, name: str, width: int = SLICE) -> Array:
        """[c width] of e or l."""
        return spread(getattr(self, name), (ROWS, width), 0)


def rows_tiles(slots: int) -> dict:
    """Shared memory for `Tokens.total` and `Tokens.segment`, once for rows of wgmma's sums and once for columns."""
    _, plgpu = compat.modules()
    of = {"total": jnp.float32, "segment": jnp.int32}
    return {f"{name}_{axis}": plgpu.SMEM((slots, ROWS), dtype) for name, dtype in of.items() for axis in range(2)}


def rows_copies(refs, batch, head, mine) -> list:
    """The copies that fill them, see `Ring.fill`."""
    names = [(name, axis) for name in ("total", "segment") for axis in range(2)]
    return [(refs[name].at[batch, head, mine], refs[f"{name}_{axis}"]) for name, axis in names]


def _vector(part, axis):
    """Numbers of shared memory in registers, one for each row (axis 0) or column (axis 1) of wgmma's sums."""
    _, plgpu = compat.modules()
    return plgpu.load(part, layout=plgpu.Layout.WGMMA.reduce(1 - axis))


def read(tile):
    """Numbers of a tile in shared memory, in registers in float32 as wgmma's sums are."""
    _, plgpu = compat.modules()
    return plgpu.load(tile, layout=plgpu.Layout.WGMMA).astype(jnp.float32)


def float_tile(rows: int = ROWS):
    """Shared memory for so many rows of a state in float32."""
    _, plgpu = compat.modules()
    transforms = plgpu.TilingTransform((8, 32)), plgpu.SwizzleTransform(128)
    return plgpu.SMEM((rows, SLICE), jnp.float32, transforms=transforms)


def load(part) -> Array:
    """Rows of a state [ROWS SLICE] of global memory, in registers as wgmma's sums are."""
    _, plgpu = compat.modules()
    return plgpu.load(part, layout=plgpu.Layout.WGMMA, optimized=False)


def store(refs, state, place) -> None:
    """Writes a state, in blocks of ROWS rows, through `float_tile`; returns when that is free."""
    pl, plgpu = compat.modules()
    for part, rows in zip(state, range(0, place.shape[0], ROWS)):
        refs["float_tile"][...] = part
        plgpu.commit_smem()
        plgpu.copy_smem_to_gmem(refs["float_tile"], place.at[pl.ds(rows, ROWS)])
        plgpu.wait_smem_to_gmem(0, wait_read_only=True)
