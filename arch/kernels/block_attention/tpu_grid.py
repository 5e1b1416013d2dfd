"""The grid of the TPU kernels: which block of each array a grid step sees.

By rows of queries it is (example, head, visit). By keys it is (example, key-value head, visit, query head of the
group): heads that share a list meet a block of keys one after the other, so that the list and the mask serve all.
"""

import dataclasses
from functools import partial

import jax.numpy as jnp
from jax import lax

from arch.kernels import compat
from arch.kernels.block_attention.rule import Extras, Lists, Rule, column_of, mask_of, member_of, row_of
from arch.kernels.block_attention.visits import FIRST, LAST, PARTIAL, VISIBLE
from arch.typing import Array


@dataclasses.dataclass(frozen=True)
class Step:
    """Where a grid step is.

    Attributes:
      by_keys: rows are blocks of keys.
      head: of the query.
      query_block: its index.
      key_block: its index.
      flags: of the visit; `FIRST` and `LAST` only in the first and last of the group's heads.
    """

    by_keys: bool
    head: Array
    query_block: Array
    key_block: Array
    flags: Array

    def when(self, flag):
        """Runs what it decorates where the flag is set."""
        pl, _ = compat.tpu()
        return pl.when(self.flags & flag != 0)

    def visit(self, body):
        """Runs `body(masked)` where the block is visible: full blocks have code of their own, without a mask."""
        pl, _ = compat.tpu()
        pl.when(self.flags & (VISIBLE | PARTIAL) == VISIBLE)(partial(body, False))
        pl.when(self.flags & PARTIAL != 0)(partial(body, True))


class Grid:
    """The grid, the block that each array has in each of its steps, and the call."""

    def __init__(self, rule: Rule, query: Array, key: Array, lists: Lists, by_keys: bool = False):
        """Of query [b n t h], key [b k s h] and a list of visits [1 or heads, s] in the order of queries or keys."""
        self.rule, self.lists, self.by_keys = rule, lists, by_keys
        b, n, self.group = query.shape[0], query.shape[1], query.shape[1] // key.shape[1]
        self.together = self.group if by_keys and rule.shared else 1  # heads that share the list
        self.shape = (b, n // self.group if by_keys else n, lists.place.shape[1], self.together)
        self.flops = 2 * b * rule.visits * rule.queries * rule.keys * query.shape[-1]

    def _index(self, head, visit, member, place, flags):
        """(query head, key-value head, block of queries, block of keys, mask) of a grid step."""
        lane = head if len(self.lists.place) > 1 else 0
        place, flags = place[lane, visit], flags[lane, visit]
        row, column = row_of(place), column_of(place)
        if self.by_keys:
            return head * self.group + member_of(flags) + member, head, column, row, mask_of(flags)
        return head, lax.div(head, self.group), row, column, mask_of(flags)

    def _spec(self, shape, block):
        """A part of this shape, at `block(example, query head, key-value head, query block, key block, mask)`."""
        pl, _ = compat.tpu()
        return pl.BlockSpec(shape, lambda example, *step: block(example, *self._index(*step)))

    def queries(self, channels: int):
        """A block of queries, [1 1 bq channels] of [b n t channels]."""
        return self._spec((1, 1, self.rule.queries, channels), lambda e, head, kv, i, j, u: (e, head, i, 0))

    def keys(self, channels: int):
        """A block of keys, [1 1 bk channels] of [b k s channels]."""
        return self._spec((1, 1, self.rule.keys, channels), lambda e, head, kv, i, j, u: (e, kv, j, 0))

    def query_row(self):
        """A number for each query of a block, [1 1 1 bq] of [b n 1 t]."""
        return self._spec((1, 1, 1, self.rule.queries), lambda e, head, kv, i, j, u: (e, head, 0, i))

    def scalars(self):
        """The whole array, in scalar memory."""
        pl, pltpu = compat.tpu()
        return pl.BlockSpec(memory_space=pltpu.SMEM)

    def operands(self, query, key, value, extras: Extras) -> dict:
        """Array and part of what all kernels read, by name."""
        masks = self.lists.masks
        found = {
            "query": (query, self.queries(query.shape[-1])),
            "key": (key, self.keys(key.shape[-1])),
            "value": (value, self.keys(value.shape[-1])),
            "masks": (masks, self._spec((1, *masks.shape[1:]), lambda e, head, kv, i, j, u: (u, 0, 0))),
        }
        if extras.query_segments is not None:
            of_queries = self._spec((1, 1, self.rule.queries), lambda e, head, kv, i, j, u: (e, 0, i))
            of_keys = self._spec((1, 1, self.rule.keys), lambda e, head, kv, i, j, u: (e, 0, j))
            found["query_segments"] = extras.query_segments[:, None], of_queries
            found["key_segments"] = extras.key_segments[:, None], of_keys
        if extras.slopes is not None:
            found["slopes"] = extras.slopes, self.scalars()
        return found

    def run(self, name: str, kernel, operands: dict, results: dict, scratch: dict, *, products: int):
        """Calls `kernel(step, rule, refs)` in each grid step.

        Args:
          name: to profilers.
          kernel: the body; refs are those of operands, results and scratch, by name.
          operands: array and part.
          results: shape and part.
          scratch: shapes in float32, in vector memory.
          products: matrix products of a visit.
        """
        pl, pltpu = compat.tpu()

        def body(place, flags, *refs):
            at = [pl.program_id(axis) for axis in range(4)]
            head, _, query_block, key_block, _ = self._index(*at[1:], place, flags)
            here = flags[at[1] if len(self.lists.place) > 1 else 0, at[2]]
            if self.together > 1:  # a row's sums begin with the first of the heads and end with the last
                here &= jnp.where(at[3] == 0, -1, ~FIRST) & jnp.where(at[3] == self.together - 1, -1, ~LAST)
            step = Step(self.by_keys, head, query_block, key_block, here)
            kernel(step, self.rule, dict(zip([*operands, *results, *scratch], refs, strict=True)))

        arrays, in_specs = zip(*operands.values())
        shapes, out_specs = zip(*results.values())
        nbytes = sum(array.size * array.dtype.itemsize for array in (*arrays, *shapes))
        elements = self.flops // (2 * arrays[0].shape[-1])
        return pl.pallas_call(
            body,
            name=name,
            out_shape=list(shapes),
            grid_spec=pltpu.PrefetchScalarGridSpec(
                num_scalar_prefetch=2,
                grid=self.shape,
                in_specs=list(in_specs),
                out_specs=list(out_specs),
                scratch_shapes=[pltpu.VMEM(shape, jnp.float32) for shape in scratch.values()],
            ),
            compiler_params=pltpu.CompilerParams(
                dimension_semantics=("parallel", "parallel", "arbitrary", "arbitrary")
            ),
            cost_estimate=pl.CostEstimate(flops=products * self.flops, transcendentals=elements, bytes_accessed=nbytes),
            interpret=self.rule.launch or False,
        )(self.lists.place, self.lists.flags, *arrays)
