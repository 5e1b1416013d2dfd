"""Attention among tokens that lie on several devices (`mesh.context`): by a ring, or all tokens of some heads at once.

By the ring of `arch.sharding.ring`, or as in DeepSpeed Ulysses (`arch.sharding.context.to_heads`): what a mixer's
config says. Either meets the blocks of a pattern (`arch.mixers._attend.attend_blocks`).
"""

import dataclasses
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
from jax import lax

from arch.kernels import implementations
from arch.layers.contract import Context, LogitBias
from arch.mixers._attend import attend_blocks, map_of
from arch.ops import patterns
from arch.ops.patterns import Pattern
from arch.sharding import ring
from arch.sharding.context import AXIS, shards, to_heads, to_tokens
from arch.sharding.mesh import spec
from arch.sharding.per_shard import per_shard
from arch.typing import Array

Split = Literal["ring", "heads"]


@dataclasses.dataclass(frozen=True)
class Sight:
    """What a query sees, and how.

    Attributes:
      causal: only keys whose place is not after its own.
      window: only keys less than so many places away; 0 for all.
      pattern: of these, only keys that it names, the same in all heads, with the split 'heads'; None for all.
      block: tokens of a block; 0 for what suits the device.
      scale: factor of the logits; None for 1 / sqrt(h).
      soft_cap: bound of the logits; 0 for none.
    """

    causal: bool = True
    window: int = 0
    pattern: Pattern | None = None
    block: int = 0
    scale: float | None = None
    soft_cap: float = 0.0

    @property
    def whole(self) -> Pattern:
        """All of it."""
        seen = patterns.full if self.pattern is None else self.pattern
        seen = seen & patterns.causal if self.causal else seen
        return seen & patterns.window(self.window) if self.window else seen


def attend_split(
    sight: Sight, split: Split, query, key, value, sinks, bias: LogitBias | None, context: Context
) -> Array:
    """[b t n v] attention among the tokens of the call, which the mesh splits.

    Raises:
      ValueError: of the sight, the bias or the number of heads, what cannot be computed this way.
    """
    (b, t, n, h), k = query.shape, key.shape[2]
    linear = bias is None or bias.linear
    if split == "heads":
        _must_share_heads(k, linear, shards(t))
    axis = "kv_heads" if linear else None
    by_group = lambda array: None if array is None else array.reshape(k, n // k)
    flat = lambda array: None if array is None else array.reshape(-1)
    attend = {"ring": _by_ring, "heads": _by_heads}[split]
    implementations.tell("attention along a split row", split)

    def on_shard(query, key, value, sinks, operands, segments, valid):
        part = partial(_part, sight, bias and (bias.function, bias.linear))
        if split == "heads":
            sinks, operands = (_some(array) for array in (sinks, operands))
        given = dict(segments=segments, valid=valid, sinks=flat(sinks))
        given |= dict(operands=flat(operands) if linear else operands)
        return attend(sight, part, query, key, value, **given)

    operands = None if bias is None else bias.operands
    operands, of_bias = (by_group(operands), (axis, None)) if linear else (operands, (None,) * operands.ndim)
    row = "batch", "sequence"
    grouped, single = (*row, axis, None, None), (*row, axis, None)
    arrays = (query.reshape(b, t, k, n // k, h), key, value, by_group(sinks), operands)
    axes = (grouped, single, single, (axis, None), of_bias, row, row)
    out = per_shard(on_shard, (*arrays, context.segment_ids, context.valid), axes, grouped, reduce="head_dim")
    return out.reshape(b, t, n, -1)


def _must_share_heads(k, linear, parts):
    if not linear:
        raise ValueError("split='heads' must be 'ring' with a position whose bias is not linear in the distance")
    mesh = jax.sharding.get_abstract_mesh()
    across = parts * (mesh.shape["tensor"] if spec(("kv_heads",), (k,), mesh)[0] else 1)
    if k % across:
        rule = f"must be a multiple of mesh.tensor * mesh.context = {across} with split='heads'"
        raise ValueError(f"num_kv_heads={k} {rule}")


def _part(sight, bias, query, keys: ring.Keys, pattern, segments, places, operands, sinks):
    """(result, logsumexp) of some queries and keys: `arch.sharding.ring.Part`."""
    blocks = map_of(pattern, query.shape[1], keys.key.shape[1], sight.block)
    given = dict(segments=(segments, keys.segments), valid=keys.valid, sinks=sinks)
    if bias is not None:
        function, linear = bias
        given |= dict(bias=LogitBias(function, operands, linear), places=(places, keys.places))
    return attend_blocks(query, keys.key, keys.value, blocks, scale=sight.scale, soft_cap=sight.soft_cap, **given)


def _by_ring(sight, part, query, key, value, **given):
    heads = query.reshape(*query.shape[:2], -1, query.shape[-1])
    out = ring.ring_attend(part, heads, key, value, causal=sight.causal, window=sight.window, **given)
    return out.reshape(*query.shape[:-1], -1)


def _by_heads(sight, part, query, key, value, *, segments, valid, operands, sinks):
    query, key, value = map(to_heads, (query, key, value))
    row = lambda array: None if array is None else lax.all_gather(array, AXIS, axis=1, tiled=True)
    segments, valid = row(segments), row(valid)
    places = jnp.broadcast_to(jnp.arange(key.shape[1]), key.shape[:2])
    heads = query.reshape(*query.shape[:2], -1, query.shape[-1])
    keys = ring.Keys(key, value, places, segments, valid)
    out, _ = part(heads, keys, sight.whole, segments, places, operands, sinks)
    return to_tokens(out.reshape(*query.shape[:-1], -1))


def _some(array):
    """Of [k g] numbers of heads, those of the heads that this shard gets."""
    if array is None:
        return None
    size = array.shape[0] // lax.axis_size(AXIS)
    return lax.dynamic_slice_in_dim(array, lax.axis_index(AXIS) * size, size)
