"""A learned logit for each head and bucket of distances.

Raffel et al., Exploring the Limits of Transfer Learning with a Unified Text-to-Text Transformer (T5), 2019, arXiv
1910.10683, sec. 2.1: one table serves all layers. UMT5 (Chung et al., 2023, arXiv 2304.09151) has one in each layer.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, ClassVar

import jax.numpy as jnp

from arch import config
from arch.layers.contract import Common, LogitBias, Position
from arch.layers.weight import normal
from arch.ops import relative

TABLE = "relative"
"""The table's name among an attention's weights and in `Context.shared`."""


@config.frozen
class Config(Position):
    """T5's relative bias.

    Attributes:
      buckets: rows of the table.
      max_distance: from here on all distances are in the last bucket.
      bidirectional: half of the buckets are for keys behind the query; without, such keys count as the query's place.
      owner: this layer declares the table; otherwise it reads the one that an earlier layer shares.
      shares: an owner shares its table with later layers; without, only it reads it.
    """

    buckets: config.PositiveInt = 32
    max_distance: config.PositiveInt = 128
    bidirectional: bool = False
    owner: bool = True
    shares: bool = True

    acts: ClassVar[str] = "logits"

    def check(self):
        own = self.buckets // 2 if self.bidirectional else self.buckets
        if own < 2 or self.max_distance <= own // 2:
            rule = f"must leave a bucket for long distances below max_distance={self.max_distance}"
            raise ValueError(f"buckets={self.buckets} {rule}")

    def bias(self, own: Callable, num_heads: int, shared: Mapping[str, Any]) -> tuple[LogitBias, dict[str, Common]]:
        """The table's entry for each pair, and the table for later layers."""
        if self.owner:
            init = normal((2 / (self.buckets + num_heads)) ** 0.5)
            table = own(TABLE, init, dtype=jnp.float32, buckets=self.buckets, heads=num_heads)
        elif TABLE not in shared:
            raise ValueError("owner=False: an earlier layer must own the relative table and share it")
        else:
            table = shared[TABLE].value
            if table.shape[1] != num_heads:
                rule = f"must be {table.shape[1]}, those of the layer that owns the relative table"
                raise ValueError(f"num_heads={num_heads} {rule}")
        of = partial(relative.bias, max_distance=self.max_distance, bidirectional=self.bidirectional)
        return LogitBias(of, table), {TABLE: Common(table)} if self.owner and self.shares else {}


EXAMPLES = (Config(buckets=6, max_distance=11, shares=False),)
