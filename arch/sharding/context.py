"""Rows whose tokens lie on several devices: shard i of c along the mesh axis `context` has the i-th c-th of each row.

What looks a few tokens back gets them from the shards before (`before`); what looks at all tokens, but at each head by
itself, swaps tokens for heads (`to_heads`; Jacobs et al., DeepSpeed Ulysses, 2023, arXiv 2309.14509, sec. 3). Attention
to all tokens is in `arch.sharding.ring`, recurrences are in `arch.sharding.passing`. Nothing here gathers whole rows.
"""

import jax
import jax.numpy as jnp
from jax import lax

from arch.ops import causal_conv as convolution
from arch.ops import token_shift as shift
from arch.sharding import mesh as meshes
from arch.sharding.per_shard import each_shard
from arch.typing import Array, Bool, Float, Int, Shaped

(AXIS,) = meshes.RULES["sequence"]


def shards(length: int) -> int:
    """Into how many parts the mesh that `jax.set_mesh` set splits rows of so many tokens; 1 inside `shard_map`."""
    mesh = jax.sharding.get_abstract_mesh()
    if AXIS not in meshes.auto_axes(mesh):
        return 1
    (part,) = meshes.spec(("sequence",), (length,), mesh)
    return meshes.context_shards(mesh) if part else 1


def by_shard(array: Shaped[Array, "b t ..."]) -> Shaped[Array, "c b _ ..."]:
    """The parts of rows that the mesh splits, one after the other: on them rows and tokens may become one axis."""
    rows, length = array.shape[:2]
    return array.reshape(rows, shards(length), -1, *array.shape[2:]).swapaxes(0, 1)


def before(array: Shaped[Array, "b t ..."], count: int) -> Shaped[Array, "b c ..."]:
    """Inside `shard_map`: the last `count` tokens of the shards before this one, zeros before the row's first."""
    return _beside(array, count, 1)


def after(array: Shaped[Array, "b t ..."], count: int) -> Shaped[Array, "b c ..."]:
    """The same, of the first tokens of the shards behind it."""
    return _beside(array, count, -1)


def _beside(array, count, way):
    length, size = array.shape[1], lax.axis_size(AXIS)
    parts, left = [], count
    for hop in range(1, size):
        some = min(left, length)
        if some:
            sent = array[:, length - some :] if way > 0 else array[:, :some]
            pairs = [(i, i + way * hop) for i in range(size) if 0 <= i + way * hop < size]
            parts.append(lax.ppermute(sent, AXIS, pairs))
        left -= some
    if left or not parts:  # XLA's CPU code crashes on empty arrays in a loop with exchanges
        parts.append(jnp.zeros((array.shape[0], left, *array.shape[2:]), array.dtype))
    return jnp.concatenate(parts[::-1] if way > 0 else parts, axis=1)


def to_heads(array: Shaped[Array, "b t k ..."]) -> Shaped[Array, "b _ _ ..."]:
    """Inside `shard_map`: from some tokens of all heads to all tokens of some heads, axis 2."""
    return lax.all_to_all(array, AXIS, split_axis=2, concat_axis=1, tiled=True)


def to_tokens(array: Shaped[Array, "b t k ..."]) -> Shaped[Array, "b _ _ ..."]:
    """The way back."""
    return lax.all_to_all(array, AXIS, split_axis=1, concat_axis=2, tiled=True)


def causal_conv(
    x: Float[Array, "b t f"],
    weight: Float[Array, "w f"],
    bias: Float[Array, "f"],
    *,
    tail: Float[Array, "b w-1 f"] | None = None,
    segment_ids: Int[Array, "b t"] | None = None,
    valid: Bool[Array, "b t"] | None = None,
    channels: str | None = "hidden",
) -> tuple[Float[Array, "b t f"], Float[Array, "b w-1 f"] | None]:
    """As `arch.ops.causal_conv.causal_conv`, of rows that are split or not; the new tail of split ones is None.

    Args:
      x, weight, bias, tail, segment_ids, valid: see there; rows with a tail are not split.
      channels: the logical axis of f.
    """
    width = weight.shape[0]
    if tail is not None or shards(x.shape[1]) == 1:
        return convolution.causal_conv(x, weight, bias, tail=tail, segment_ids=segment_ids, valid=valid)

    def on_shard(x, weight, bias, segment_ids):
        tail = before(x, width - 1)
        if segment_ids is not None:  # of the shard's first token's document, the only one of both sides
            tail = jnp.where((before(segment_ids, width - 1) == segment_ids[:, :1])[..., None], tail, 0)
        return convolution.causal_conv(x, weight, bias, tail=tail, segment_ids=segment_ids)[:1]

    rows = "batch", "sequence", channels
    axes = rows, (None, channels), (channels,), ("batch", "sequence")
    (y,) = each_shard(on_shard, (x, weight, bias, segment_ids), axes, (rows,), like=lambda x, *_: (x,))
    return y, None


def token_shift(
    x: Float[Array, "b t d"],
    *,
    last: Float[Array, "b d"] | None = None,
    reset: Bool[Array, "b t"] | None = None,
    valid: Bool[Array, "b t"] | None = None,
) -> tuple[Float[Array, "b t d"], Float[Array, "b d"] | None]:
    """As `arch.ops.token_shift.token_shift`, of rows that are split or not; the last token of split ones is None.

    Args:
      x, last, reset, valid: see there; rows with a token before them are not split.
    """
    if last is not None or shards(x.shape[1]) == 1:
        return shift.token_shift(x, last=last, reset=reset, valid=valid)

    def on_shard(x, reset):
        return shift.token_shift(x, last=before(x, 1)[:, 0], reset=reset)[:1]

    rows = "batch", "sequence", None
    (y,) = each_shard(on_shard, (x, reset), (rows, rows[:2]), (rows,), like=lambda x, *_: (x,))
    return y, None
