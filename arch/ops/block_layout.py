"""How rows of tokens lie in blocks while attention meets them: arrays [b k i r h] of i blocks with r rows each.

The query heads of a key-value head stand in one block, one after the other (r = g bq), and meet its keys in one
product. Where heads have block maps of their own, all heads' blocks stand in one line, as if they were one head's.
"""

import dataclasses

import jax.numpy as jnp
import numpy as np

from arch.ops.patterns.blocks import BlockMap
from arch.typing import Array


@dataclasses.dataclass(frozen=True, eq=False)
class Layout:
    """The layout of a call.

    Attributes:
      map: of blocks.
      heads: n.
      kv_heads: k.
    """

    map: BlockMap
    heads: int
    kv_heads: int

    @property
    def own(self) -> bool:
        """Each head has its own map."""
        return self.map.heads > 1

    @property
    def group(self) -> int:
        """g."""
        return 1 if self.own else self.heads // self.kv_heads

    @property
    def area(self) -> int:
        """Logits of a block, in all heads that meet it together."""
        return self.map.block[0] * self.map.block[1] * (1 if self.own else self.heads)

    @property
    def sizes(self) -> tuple[int, int]:
        """Blocks of queries, and of keys, of one head."""
        return self.map.lists.rows, self.map.transposed().lists.rows

    def query_blocks(self, head: np.ndarray, block: np.ndarray) -> np.ndarray:
        """Where a head's blocks of queries stand."""
        return head * self.sizes[0] + block

    def key_blocks(self, head: np.ndarray, block: np.ndarray) -> np.ndarray:
        """Where the blocks of keys that a query head meets stand."""
        return head * self.kv_heads // self.heads * self.sizes[1] + block

    def queries(self, array: Array) -> Array:
        """[b t n ...] in blocks, [b k i r ...]."""
        (b, _, n, *rest), size = array.shape, self.map.block[0]
        array = _whole(array, size).reshape(b, -1, size, n // self.group, self.group, *rest)
        array = jnp.moveaxis(array, (3, 1, 4, 2), (1, 2, 3, 4))
        return array.reshape(b, 1 if self.own else self.kv_heads, -1, self.group * size, *rest)

    def rows(self, array: Array) -> Array:
        """[b t n ...] of such blocks."""
        b, rest, (bq, _), i = array.shape[0], array.shape[4:], self.map.block, self.sizes[0]
        array = jnp.moveaxis(array.reshape(b, -1, i, self.group, bq, *rest), (1, 2, 3, 4), (3, 1, 4, 2))
        return array.reshape(b, i * bq, self.heads, *rest)[:, : self.map.query_length]

    def keys(self, array: Array) -> Array:
        """[b s k h] in blocks, [b k j bk h]."""
        (b, _, k, h), size = array.shape, self.map.block[1]
        array = jnp.moveaxis(_whole(array, size).reshape(b, -1, size, k, h), 3, 1)
        return array.reshape(b, 1 if self.own else k, -1, size, h)

    def key_rows(self, array: Array) -> Array:
        """[b s k h] of blocks that stand as the query heads' do: a group's are summed."""
        b, _, _, size, h = array.shape
        array = jnp.sum(array.reshape(b, self.kv_heads, -1, self.sizes[1], size, h), axis=2)
        return jnp.moveaxis(array, 1, 3).reshape(b, -1, self.kv_heads, h)[:, : self.map.key_length]


def _whole(array, size):
    """Filled up to whole blocks, along axis 1."""
    return jnp.pad(array, [(0, 0), (0, -array.shape[1] % size)] + [(0, 0)] * (array.ndim - 2))
