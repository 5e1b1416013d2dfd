"""What the kernels of both kinds of device share: the fixed numbers of an attention, and its logits.

Logits are kept in base 2, log2(e) times the natural ones, since the devices have exp2: P = 2^(z - L). A masked pair has
the logit MASKED, and the running maximum starts at LEAST, far above it: 2^(MASKED - LEAST) is 0, so that a row which
has seen nothing yet sums nothing, and no difference of infinities arises.
"""

import dataclasses
import math
from typing import NamedTuple

import jax.numpy as jnp
from jax import lax

from arch.typing import Array

LOG2E = math.log2(math.e)
MASKED = -1e38
LEAST = -1e30
UNSEEN = 1e30
"""The logsumexp, to the backward pass, of a row that sees nothing: 2^(z - UNSEEN) is 0."""
NOBODY = -(2**31)
"""The segment of a key that nobody sees."""


@dataclasses.dataclass(frozen=True)
class Rule:
    """The fixed numbers of an attention.

    Attributes:
      queries: of a block.
      keys: of a block.
      scale: factor of the products.
      soft_cap: bound of the logits; 0 for none.
      shared: all heads have the same map.
      visits: blocks that the forward pass visits, in all heads of one example.
      launch: how the kernels are started.
    """

    queries: int
    keys: int
    scale: float
    soft_cap: float
    shared: bool
    visits: int
    launch: object

    def logits(self, product: Array) -> tuple[Array, Array | float]:
        """Of the products of queries and keys: the logits in base 2, and their slope over the scaled products'."""
        if not self.soft_cap:
            return product * (self.scale * LOG2E), 1.0
        bounded = jnp.tanh(product * (self.scale / self.soft_cap))
        return bounded * (self.soft_cap * LOG2E), 1.0 - bounded * bounded


class Extras(NamedTuple):
    """What there may be beside query, key and value; None where there is none.

    Attributes:
      query_segments: int32 [b t] a query sees only keys of its own segment.
      key_segments: int32 [b s]; NOBODY's are seen by none.
      slopes: float32 [n] of ALiBi.
      sinks: float32 [n] a logit in the softmax's denominator only.
    """

    query_segments: Array | None
    key_segments: Array | None
    slopes: Array | None
    sinks: Array | None


class Tables(NamedTuple):
    """A block map as the kernels read it.

    Attributes:
      by_rows: the forward pass's visits.
      by_keys: those of the backward pass by keys.
    """

    by_rows: "Lists"
    by_keys: "Lists"


class Lists(NamedTuple):
    """The arrays of `visits.Visits`, and the masks [u bq bk], or by keys [u bk bq], as the kernels store them."""

    place: Array
    flags: Array
    begin: Array
    partial: Array
    order: Array
    masks: Array


def row_of(place):
    """The row of a visit."""
    return lax.shift_right_logical(place, 16)


def column_of(place):
    """The column of a visit."""
    return place & 0xFFFF


def mask_of(flags):
    """The mask of a visit."""
    return lax.shift_right_logical(flags, 12)


def member_of(flags):
    """The head of a visit within its group."""
    return lax.shift_right_logical(flags, 4) & 0xFF
