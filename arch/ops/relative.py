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
    exact = own // 2
    distances = np.arange(max_distance + 1)
    share = np.log(np.maximum(distances, 1) / exact) / np.log(max_distance / exact)
    coarse = np.minimum(exact + np.floor(share * (own - exact) + 1e-6).astype(int), own - 1)
    table = jnp.asarray(np.where(distances < exact, distances, coarse), jnp.int32)
    distance = jnp.abs(offset) if bidirectional else jnp.maximum(-offset, 0)
    behind = own * (offset > 0) if bidirectional else 0
    return table[jnp.minimum(distance, max_distance)] + behind


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
