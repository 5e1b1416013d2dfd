"""The grid of the TPU kernels of WKV: (example, block of channels, chunk), and what each step sees."""

import jax.numpy as jnp

from arch.kernels import compat
from arch.typing import Array

LANES = 128
MOST_CHUNK = 128
GROUP = 4
"""Tokens whose steps are unrolled."""


def chunk(length: int) -> int:
    """Tokens of a chunk, of rows of so many; MOST_CHUNK, or all of a shorter row."""
    return min(MOST_CHUNK, length + -length % GROUP)


def rows(dtype) -> int:
    """Of a tile."""
    return 32 // jnp.dtype(dtype).itemsize


def tiles(array: Array, dtype) -> Array:
    """[... f] as [... rows LANES], with zeros behind: whole tiles of this dtype, or less than one."""
    count = -(-array.shape[-1] // LANES)
    count += -count % rows(dtype) if count > rows(dtype) else 0
    array = jnp.pad(array, [(0, 0)] * (array.ndim - 1) + [(0, count * LANES - array.shape[-1])])
    return array.reshape(*array.shape[:-1], count, LANES)


class Grid:
    """The grid, the part of each array that a step sees, and the call."""

    def __init__(self, tokens, *, reverse: bool = False):
        self.b, self.t, count, _ = tokens.key.shape
        self.size, self.reverse = chunk(self.t), reverse
        self.tile = min(count, rows(tokens.key.dtype)), LANES
        self.chunks, self.blocks = self.t // self.size, count // self.tile[0]

    def _spec(self, shape, index, **where):
        """Of `index(example, block, chunk)`."""
        pl, _ = compat.tpu()
        chunk = (lambda step: self.chunks - 1 - step) if self.reverse else (lambda step: step)
        return pl.BlockSpec(shape, lambda e, block, step: index(e, block, chunk(step)), **where)

    def tokens(self):
        """[1 c rows LANES] of [b t rows LANES]."""
        return self._spec((1, self.size, *self.tile), lambda e, block, chunk: (e, chunk, block, 0))

    def state(self):
        """[1 rows LANES] of [b rows LANES]."""
        return self._spec((1, *self.tile), lambda e, block, chunk: (e, block, 0))

    def entry(self):
        """[1 1 rows LANES] of [b l rows LANES]."""
        return self._spec((1, 1, *self.tile), lambda e, block, chunk: (e, chunk, block, 0))

    def operands(self, tokens) -> dict:
        """Array and part of what both passes read, by name."""
        _, pltpu = compat.tpu()
        channels = self._spec(self.tile, lambda e, block, chunk: (block, 0))
        of_all = self._spec((1, 1, self.size), lambda e, block, chunk: (e, 0, chunk), memory_space=pltpu.SMEM)
        return {
            "key": (tokens.key, self.tokens()),
            "value": (tokens.value, self.tokens()),
            "decay": (tokens.decay, channels),
            "bonus": (tokens.bonus, channels),
            "flags": (tokens.flags[:, None], of_all),
        }

    def run(self, name, kernel, operands, results, scratch, launch):
        """Calls `kernel(tokens of a chunk, refs)` in each step; refs are by name."""
        pl, pltpu = compat.tpu()
        arrays, in_specs = zip(*operands.values())
        shapes, out_specs = zip(*results.values())
        names = [*operands, *results, *scratch]
        return pl.pallas_call(
            lambda *refs: kernel(self.size, dict(zip(names, refs, strict=True))),
            name=name,
            out_shape=list(shapes),
            grid=(self.b, self.blocks, self.chunks),
            in_specs=list(in_specs),
            out_specs=list(out_specs),
            scratch_shapes=[pltpu.VMEM(shape, jnp.float32) for shape in scratch.values()],
            compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel", "parallel", "arbitrary")),
            cost_estimate=pl.CostEstimate(
                flops=(60 if scratch else 22) * arrays[0].size,
                transcendentals=(9 if scratch else 4) * arrays[0].size,
                bytes_accessed=sum(array.size * array.dtype.itemsize for array in (*arrays, *shapes)),
            ),
            interpret=launch or False,
        )(*arrays)
