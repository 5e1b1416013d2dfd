"""The grid of the TPU kernels of decayed linear attention: (example, heads, step), and what each step sees.

A grid step has the heads that `Plan.members` says, and the chunk that the pass gives it.
"""

import jax.numpy as jnp
from jax import lax

from arch.kernels import compat
from arch.kernels.linear_attention.plan import Plan, Tokens


class Grid:
    """The grid, the part of each array that a step sees, and the call."""

    def __init__(self, plan: Plan, tokens: Tokens, chunk):
        """Of `chunk(step)`: the chunk of keys and values, and of what only the way back needs."""
        (self.b, k, _, self.h), (_, self.n, _, self.v) = tokens.query.shape, tokens.value.shape
        self.plan, self.chunk, self.sharing = plan, chunk, self.n // k // plan.members

    def _spec(self, shape, index):
        pl, _ = compat.tpu()
        return pl.BlockSpec(shape, index)

    def shared(self, *, back: bool = False):
        """[1 1 c h] of queries or keys [b k t h]."""
        shape = (1, 1, self.plan.chunk, self.h)
        return self._spec(shape, lambda e, m, step: (e, lax.div(m, self.sharing), self.chunk(step)[back], 0))

    def part(self, channels: int):
        """[1 1 c channels] of [b n/members t channels]."""
        return self._spec((1, 1, self.plan.chunk, channels), lambda e, m, step: (e, m, self.chunk(step)[1], 0))

    def values(self, channels: int, *, back: bool = False):
        """[1 members c channels] of [b n t channels]."""
        shape = (1, self.plan.members, self.plan.chunk, channels)
        return self._spec(shape, lambda e, m, step: (e, m, self.chunk(step)[back], 0))

    def row(self, *, back: bool = False):
        """[1 members 1 c] of [b n 1 t]."""
        shape = (1, self.plan.members, 1, self.plan.chunk)
        return self._spec(shape, lambda e, m, step: (e, m, 0, self.chunk(step)[back]))

    def state(self):
        """[1 members h v] of [b n h v]."""
        return self._spec((1, self.plan.members, self.h, self.v), lambda e, m, step: (e, m, 0, 0))

    def entries(self, span):
        """[1 members 1 h v] of [b n spans h v]."""
        shape = (1, self.plan.members, 1, self.h, self.v)
        return self._spec(shape, lambda e, m, step: (e, m, span(step), 0, 0))

    def operands(self, tokens: Tokens) -> dict:
        """Array and part of what both passes read, by name."""
        return {
            "query": (tokens.query, self.shared(back=True)),
            "key": (tokens.key, self.shared()),
            "value": (tokens.value, self.values(self.v)),
            "total": (tokens.total[:, :, None], self.row()),
            "segment": (tokens.segment[:, :, None], self.row()),
        }

    def run(self, name, kernel, operands, results, scratch, *, steps: int, products: int):
        """Calls `kernel(plan, refs)` in each step; refs are those of operands, results and scratch, by name."""
        pl, pltpu = compat.tpu()
        arrays, in_specs = zip(*operands.values())
        shapes, out_specs = zip(*results.values())
        names = [*operands, *results, *scratch]
        pairs = self.b * self.n * self.plan.length * self.plan.chunk
        return pl.pallas_call(
            lambda *refs: kernel(self.plan, dict(zip(names, refs, strict=True))),
            name=name,
            out_shape=list(shapes),
            grid=(self.b, self.n // self.plan.members, steps),
            in_specs=list(in_specs),
            out_specs=list(out_specs),
            scratch_shapes=[pltpu.VMEM(shape, jnp.float32) for shape in scratch.values()],
            compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel", "parallel", "arbitrary")),
            cost_estimate=pl.CostEstimate(
                flops=products * pairs * (self.h + self.v),
                transcendentals=pairs,
                bytes_accessed=sum(array.size * array.dtype.itemsize for array in (*arrays, *shapes)),
            ),
            interpret=self.plan.launch or False,
        )(*arrays)
