"""Summaries of a row: the sums over blocks of so many tokens of a document, and which of them a token belongs to.

Guo et al., LongT5, 2021, arXiv 2112.07916, sec. 3.1.2. As in the released code, what is left of a document behind its
last whole block belongs to that one, and a document shorter than a block has no summary.
"""

import jax.numpy as jnp

from arch.typing import Array, Float, Int


def summary_of(
    positions: Int[Array, "b t"], segments: Int[Array, "b t"], size: int
) -> tuple[Int[Array, "b t"], Int[Array, "b m"]]:
    """(the number of the summary that each token belongs to, -1 for none; the document of each one, 0 for none).

    Args:
      positions: [b t] in each token's own document, from 0.
      segments: [b t] documents from 1; 0 for padding.
      size: tokens of a block; a row of t tokens has m = t // size summaries at most.
    """
    (b, t), rows = positions.shape, jnp.arange(len(positions))[:, None]
    none = t // size
    ends = (segments > 0) & (positions % size == size - 1)
    before = jnp.cumsum(ends, axis=1, dtype=jnp.int32) - ends  # whole blocks that end before the token
    documents = jnp.zeros((b, none + 1), jnp.int32)
    documents = documents.at[rows, jnp.where(ends, before, none)].set(jnp.where(ends, segments, 0))
    inside, behind = (
        (segments > 0) & (documents[rows, number] == segments)
        for number in (before, jnp.where(before > 0, before - 1, none))
    )
    return jnp.where(inside, before, jnp.where(behind, before - 1, -1)), documents[:, :none]


def sums(x: Float[Array, "b t d"], number: Int[Array, "b t"], count: int) -> Float[Array, "b m d"]:
    """[b count d] the sum of each summary's tokens, in float32.

    Args:
      x: [b t d].
      number: [b t] of the summary that a token is added to; -1 for none.
      count: m.
    """
    rows, place = jnp.arange(len(x))[:, None], jnp.where(number < 0, count, number)
    zeros = jnp.zeros((len(x), count, x.shape[2]), jnp.promote_types(x.dtype, jnp.float32))
    return zeros.at[rows, place].add(x.astype(zeros.dtype), mode="drop")
