"""No positions inside attention: causal models learn them from the mask (Haviv et al., 2022, arXiv 2203.16634)."""

from arch import config
from arch.layers.contract import Position


@config.frozen
class Config(Position):
    """Queries and keys as they are."""


EXAMPLES = (Config(),)
