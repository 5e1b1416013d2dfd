"""Buckets of relative positions: one for each small distance, wider and wider ones up to a greatest distance.

    bucket(d) = d                                                             for d < e
                min(B - 1, e + floor(log(d / e) / log(D / e) * (B - e)))      otherwise,      e = B / 2

Raffel et al., T5, 2019, arXiv 1910.10683, sec. 2.1 (B = 32 buckets, D = 128), and its released code, which gives half
of the buckets to keys behind the query when attention looks ahead.
"""

import jax.numpy as jnp
import numpy as np

from arch.typing import Array, Float, Int


def bucket(
    offset: Int[Array, "*b"], *, buckets: int, max_distance: int, bidirectional: bool
) -> Int[Array, "*b"]:
    """The bucket of each offset, key's place minus query's.

    Args:
      offset: [*b].
      buckets: their number.
      max_distance: from here on all distances share the last bucket.
      bidirectional: half of the buckets are for positive offsets; without, those count as 0.
    """
    own = buckets // 2 if bidirectional else buckets
    distance = jnp.abs(offset) if bidirectional else jnp.maximum(-offset, 0)
    behind = own * (offset > 0) if bidirectional else 0
    first = jnp.asarray(beginnings(own, max_distance), jnp.int32)
    return jnp.searchsorted(first, distance, side="right", method="scan_unrolled").astype(jnp.int32) + behind


def beginnings(buckets: int, max_distance: int) -> np.ndarray:
    """[<= buckets - 1] the least distance of bucket 1, 2 ..., without those that no int32 reaches, found by bisection.

    Memory grows with the buckets, not with the distance.
    """
    exact = buckets // 2
    coarse = np.arange(1, buckets - exact)
    low, high = np.full(coarse.shape, exact), np.full(coarse.shape, max_distance)
    while np.any(low < high):
        middle = (low + high) // 2
        share = np.log(middle / exact) / np.log(max_distance / exact)
        reached = np.floor(share * (buckets - exact) + 1e-6) >= coarse
        low, high = np.where(reached, low, middle + 1), np.where(reached, middle, high)
    first = np.concatenate([np.arange(1, exact + 1), high])
    return first[first <= np.iinfo(np.int32).max]


def bias(
    table: Float[Array, "r n"],
    query_place: Int[Array, "#b t"],
    key_place: Int[Array, "#b s"],
    *,
    max_distance: int,
    bidirectional: bool,
) -> Float[Array, "#b n t s"]:
    """[b n t s] the table's [bucket, head] entries, to be added to the logits. Other arguments as in `bucket`."""
    offset = key_place[:, None, :] - query_place[:, :, None]
    rows = bucket(offset, buckets=table.shape[0], max_distance=max_distance, bidirectional=bidirectional)
    return jnp.moveaxis(table[rows], -1, 1)
