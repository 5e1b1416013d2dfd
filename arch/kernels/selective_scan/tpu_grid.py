"""The grid of the TPU kernels of the selective scan: (example, block of channels, chunk), and what each step sees."""

import jax.numpy as jnp

from arch.kernels import compat

LANES = 128
MOST_CHANNELS = 512
"""Of a block."""
GROUP = 16
"""Tokens of a step: the rows of a tile of bfloat16."""
CHUNK_BYTES = 4 << 20
"""Of vector memory, for the states of a chunk."""
MOST_CHUNK = 128


def whole(length: int, channels: int, states: int) -> tuple[int, int, int]:
    """Tokens of a chunk, channels of a block, and states, whose multiples the kernels want."""
    states = states + -states % 8
    lanes = channels + -channels % LANES
    block = max(size for size in range(LANES, MOST_CHANNELS + 1, LANES) if lanes % size == 0)
    chunk = min(CHUNK_BYTES // (4 * states * block), MOST_CHUNK, length + -length % GROUP)
    return chunk // GROUP * GROUP, block, 8


class Grid:
    """The grid, the part of each array that a step sees, and the call."""

    def __init__(self, tokens, *, reverse: bool = False):
        (self.b, self.t, self.f), self.n = tokens.x.shape, len(tokens.A)
        self.chunk, self.block, _ = whole(self.t, self.f, self.n)
        self.chunks, self.reverse = self.t // self.chunk, reverse

    def _spec(self, shape, index):
        """Of `index(example, block, chunk)`."""
        pl, _ = compat.tpu()
        chunk = (lambda step: self.chunks - 1 - step) if self.reverse else (lambda step: step)
        return pl.BlockSpec(shape, lambda e, block, step: index(e, block, chunk(step)))

    def tokens(self):
        """[1 c f] of [b t f]."""
        return self._spec((1, self.chunk, self.block), lambda e, block, chunk: (e, chunk, block))

    def state(self):
        """[1 n f] of [b n f]."""
        return self._spec((1, self.n, self.block), lambda e, block, chunk: (e, 0, block))

    def entry(self):
        """[1 1 n f] of [b l n f]."""
        return self._spec((1, 1, self.n, self.block), lambda e, block, chunk: (e, chunk, 0, block))

    def shared_of_block(self):
        """[1 1 c 2n] of [b blocks t 2n]."""
        return self._spec((1, 1, self.chunk, 2 * self.n), lambda e, block, chunk: (e, block, chunk, 0))

    def operands(self, tokens) -> dict:
        """Array and part of what both passes read, by name."""
        shared = jnp.concatenate([tokens.B, tokens.C, tokens.keep], axis=-1)
        of_all = self._spec((1, self.chunk, shared.shape[-1]), lambda e, block, chunk: (e, chunk, 0))
        channels = lambda rows: self._spec((rows, self.block), lambda e, block, chunk: (0, block))
        return {
            "x": (tokens.x, self.tokens()),
            "delta": (tokens.delta, self.tokens()),
            "A": (tokens.A, channels(self.n)),
            "D": (tokens.D, channels(1)),
            "shared": (shared, of_all),
        }

    def run(self, name, kernel, operands, results, scratch, launch):
        """Calls `kernel(chunk, refs)` in each step; refs are those of operands, results and scratch, by name."""
        pl, pltpu = compat.tpu()
        arrays, in_specs = zip(*operands.values())
        shapes, out_specs = zip(*results.values())
        names = [*operands, *results, *scratch]
        cells = self.b * self.t * self.f * self.n
        return pl.pallas_call(
            lambda *refs: kernel(self.chunk, dict(zip(names, refs, strict=True))),
            name=name,
            out_shape=list(shapes),
            grid=(self.b, self.f // self.block, self.chunks),
            in_specs=list(in_specs),
            out_specs=list(out_specs),
            scratch_shapes=[pltpu.VMEM(shape, jnp.float32) for shape in scratch.values()],
            compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel", "parallel", "arbitrary")),
            cost_estimate=pl.CostEstimate(
                flops=(22 if scratch else 7) * cells,
                transcendentals=(2 if scratch else 1) * cells,
                bytes_accessed=sum(array.size * array.dtype.itemsize for array in (*arrays, *shapes)),
            ),
            interpret=launch or False,
        )(*arrays)
