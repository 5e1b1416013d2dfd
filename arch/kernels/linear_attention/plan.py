"""How the kernels of decayed linear attention cut time, and what they read.

Chunks of tokens are multiplied at a time. Some chunks are a span: the forward pass keeps the state that enters each
span, from which the backward pass recomputes those that enter its chunks.
"""

import dataclasses
from typing import NamedTuple

from arch.typing import Array


@dataclasses.dataclass(frozen=True)
class Plan:
    """How time is cut, and how the kernels are started.

    Attributes:
      chunk: tokens of a chunk.
      chunks: of a span.
      spans: of a row.
      members: heads that a kernel does at a time, which share their queries and keys.
      launch: of the kernels' own kind; None as usual.
    """

    chunk: int
    chunks: int
    spans: int
    members: int
    launch: object

    @staticmethod
    def of(length: int, *, chunk: int, most: int, members: int, launch: object) -> "Plan":
        """Of rows of so many tokens, with spans of equal length, of at most so many chunks."""
        count = max(1, -(-length // chunk))
        spans = -(-count // most)
        return Plan(chunk, -(-count // spans), spans, members, launch)

    @property
    def length(self) -> int:
        """Tokens of all chunks."""
        return self.chunk * self.chunks * self.spans


class Tokens(NamedTuple):
    """What the tokens of whole chunks bring.

    Attributes:
      query: [b k t h], heads before or behind the length as the kernels want them; n heads in k groups share one.
      key: the same.
      value: [b n t v].
      total: float32 [b n t] the log decays since the chunk's first token, its own and the token's own included.
      segment: int32 [b n t] how often, since then, all was forgotten.
    """

    query: Array
    key: Array
    value: Array
    total: Array
    segment: Array
