"""Expert parallelism: rows go to the shards that own their experts, and come back, by all-to-all along one mesh axis.

Shard i of n owns experts i e/n to (i + 1) e/n - 1 and rows of its own. Both functions below are called inside
`shard_map` and give (there, back): `there` sends each row to its expert's shard, `back` is its inverse, and each is the
other's gradient. Lepikhin et al., GShard, 2020, arXiv 2006.16668, sec. 3.2 and 3.3 (buffers of fixed size); rows of
unequal numbers, as in Gale et al., MegaBlocks, 2022, arXiv 2211.15841, sec. 5.

What it costs: buffers have their size before the rows are counted. Where a shard can have `limit` rows for one other,
`sorted_rows` receives into n * limit places of d numbers, of which an even load fills 1/n if limit is all the rows that
a shard has. That is the price of dropping nothing, whatever the skew, in one go; a router with a capacity lowers the
limit. `arch.sharding.rounds` drops nothing either, and has as few places as one likes.
"""

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
from jax import lax

from arch.typing import Array, Int

Move = Callable[[Array], Array]
Implementation = Literal["ragged", "padded"]


def buffers(axis: str) -> tuple[Move, Move]:
    """(there, back) for buffers [b e c d] of c places for each row and expert; there, they are [n*b e/n c d].

    Args:
      axis: the mesh axis that splits the experts.
    """
    there = lambda filled: lax.all_to_all(filled, axis, split_axis=1, concat_axis=0, tiled=True)
    back = lambda filled: lax.all_to_all(filled, axis, split_axis=0, concat_axis=1, tiled=True)
    return there, back


def sorted_rows(
    sizes: Int[Array, "e"],
    *,
    axis: str,
    num_rows: int,
    limit: int,
    device_kind: str = "cpu",
    implementation: Implementation | None = None,
    sent_before: Int[Array, ""] | int = 0,
) -> tuple[Move, Move, Int[Array, "_"]]:
    """(there, back, sizes) for rows [m d] sorted by expert; there, they are [n*limit d], sorted by the shard's experts.

    Rows past the sum of the sizes are not sent, come back as zeros, and are zeros there.

    Args:
      sizes: [e] rows for each expert, of this shard.
      axis: the mesh axis that splits the experts.
      num_rows: m.
      limit: the most rows that a shard can have for the experts of one other. More are not sent.
      device_kind: of the devices that run this (see `arch.sharding.mesh.device_kind`), read if implementation is None.
      implementation: 'ragged' sends the rows alone (`lax.ragged_all_to_all`), 'padded' sends `limit` rows to each. None
        is `preferred`.
      sent_before: this many of the rows for each shard, the first ones, are passed over.

    Returns:
      The moves, and [e/n] rows for each expert of this shard, of all shards.
    """
    move = {"ragged": _ragged, "padded": _padded}[implementation or preferred(device_kind)]
    by_shard = sizes.reshape(lax.axis_size(axis), -1)
    ends, whole = jnp.cumsum(by_shard, axis=1), jnp.sum(by_shard, axis=1)
    sent = jnp.maximum(jnp.minimum(ends, sent_before + limit) - jnp.maximum(ends - by_shard, sent_before), 0)
    starts = _before(whole) + jnp.minimum(whole, sent_before)
    got = lax.all_to_all(sent, axis, 0, 0, tiled=True)
    totals = jnp.sum(sent, axis=1), jnp.sum(got, axis=1)
    send, send_back = move(starts, *totals, axis=axis, num_rows=num_rows, limit=limit)
    to_experts, to_senders = _by_expert(got, limit)
    there = lambda rows: _taken(send(rows), to_experts, to_senders)
    back = lambda rows: send_back(_taken(rows, to_senders, to_experts))
    return there, back, jnp.sum(got, axis=0)


def preferred(device_kind: str) -> Implementation:
    """'ragged' where devices of this kind can do it, as many as in the mesh that `jax.set_mesh` set; else 'padded'.

    CPUs lack it, and so do slices of more than 16 v5e, whose links are routed in a limited way: XLA refuses the rest.
    """
    limited = device_kind == "TPU v5 lite" and jax.sharding.get_abstract_mesh().size > 16
    return "padded" if device_kind == "cpu" or limited else "ragged"


def _padded(starts, sent, got, *, axis, num_rows, limit):
    """Moves between [num_rows d] sorted by receiver and [n*limit d], `limit` places a sender: all places travel.

    For receiver i they take the sent[i] rows from starts[i] on.
    """
    places = _places(sent, limit)
    to_places = _index(places, starts, sent, length=sent.size * limit, nothing=num_rows)
    to_rows = _index(starts, places, sent, length=num_rows, nothing=sent.size * limit)
    swap = lambda rows: lax.all_to_all(rows, axis, 0, 0, tiled=True)
    return lambda rows: swap(_taken(rows, to_places, to_rows)), lambda rows: _taken(swap(rows), to_rows, to_places)


def _ragged(starts, sent, got, *, axis, num_rows, limit):
    """The same moves; only rows travel."""
    places = _places(sent, limit)
    mine = jnp.full_like(sent, lax.axis_index(axis) * limit)  # where every shard keeps what this one sends
    theirs = lax.all_to_all(starts, axis, 0, 0, tiled=True)  # whence each shard sent what this one got

    def move(rows, length, *sides):
        empty = jnp.zeros((length, *rows.shape[1:]), rows.dtype)
        return lax.ragged_all_to_all(rows, empty, *sides, axis_name=axis)

    there = lambda rows: move(rows, sent.size * limit, starts, sent, mine, got)
    return there, lambda rows: move(rows, num_rows, places, got, theirs, sent)


def _by_expert(got, limit):
    """Indices of the rows by expert in those by sender [n*limit], and the other way round; got: [n e/n]."""
    by_sender = _places(got[:, 0], limit)[:, None] + jnp.cumsum(got, axis=1) - got
    by_expert = _before(got.T.ravel()).reshape(got.T.shape).T
    sizes = dict(length=got.shape[0] * limit, nothing=got.shape[0] * limit)
    to_experts = _index(by_expert.T.ravel(), by_sender.T.ravel(), got.T.ravel(), **sizes)
    return to_experts, _index(by_sender.ravel(), by_expert.ravel(), got.ravel(), **sizes)


def _before(sizes):
    """Where each part begins when they stand side by side."""
    return jnp.cumsum(sizes) - sizes


def _places(sizes, limit):
    """Where each part begins when it has `limit` places."""
    return jnp.arange(sizes.size, dtype=sizes.dtype) * limit


def _index(begins, others, sizes, *, length, nothing):
    """[length] where the row of each place stands in another layout; `nothing` where there is no row.

    Args:
      begins: ascending, where each part of so many `sizes` begins in this layout; there may be gaps before it.
      others: where it begins in the other.
    """
    place = jnp.arange(length, dtype=sizes.dtype)
    part = jnp.searchsorted(begins, place, side="right", method="compare_all") - 1
    offset = place - begins[part]
    return jnp.where((offset >= 0) & (offset < sizes[part]), others[part] + offset, nothing)


@jax.custom_vjp
def _taken(rows, index, inverse):
    """rows[index], zeros where the index is past the end; `inverse` makes its gradient a lookup too, no scatter."""
    return rows.at[index].get(mode="fill", fill_value=0)


_taken.defvjp(
    lambda rows, index, inverse: (_taken(rows, index, inverse), (index, inverse)),
    lambda indices, gradient: (_taken(gradient, *reversed(indices)), None, None),
)
