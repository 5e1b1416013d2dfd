"""Logits that fall linearly with distance (Press et al., Train Short, Test Long, 2021, arXiv 2108.12409, sec. 3)."""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import jax.numpy as jnp

from arch import config
from arch.layers.contract import LogitBias, Position
from arch.ops import alibi
from arch.typing import Array


@config.frozen
class Config(Position):
    """ALiBi.

    Attributes:
      factor: of the slopes. Falcon-RW adds its bias before it scales the logits: head_dim ** -0.5.
    """

    factor: config.PositiveFloat = 1.0

    acts: ClassVar[str] = "logits"

    def bias(self, own: Callable, num_heads: int, shared: Mapping[str, Any]) -> tuple[LogitBias, dict[str, Array]]:
        """A head's slope times the distance, negative."""
        slopes = jnp.asarray(self.factor * alibi.slopes(num_heads), jnp.float32)
        return LogitBias(alibi.bias, slopes, linear=True), {}


EXAMPLES = (Config(), Config(factor=0.5))
