"""Logits that fall linearly with distance (Press et al., Train Short, Test Long, 2021, arXiv 2108.12409, sec. 3)."""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from arch import config
from arch.layers.contract import Position
from arch.ops import alibi
from arch.typing import Array, Float, Int


@config.frozen
class Config(Position):
    """ALiBi.

    Attributes:
      factor: of the slopes. Falcon-RW adds its bias before it scales the logits: head_dim ** -0.5.
    """

    factor: config.PositiveFloat = 1.0

    acts: ClassVar[str] = "logits"

    def bias(
        self,
        own: Callable,
        query_place: Int[Array, "#b t"],
        key_place: Int[Array, "#b s"],
        num_heads: int,
        shared: Mapping[str, Any],
    ) -> tuple[Float[Array, "#b n t s"], dict[str, Array]]:
        """A head's slope times the distance, negative."""
        return self.factor * alibi.bias(query_place, key_place, num_heads=num_heads), {}


EXAMPLES = (Config(), Config(factor=0.5))
