"""The last tokens, and every stride-th before (Child et al., Sparse Transformers, 2019, arXiv 1904.10509, sec. 4.3)."""

from arch import config
from arch.ops.patterns import Pattern, strided
from arch.patterns._pattern import PatternConfig


@config.frozen
class Config(PatternConfig):
    """The strided pattern of both heads' kinds in one; causal.

    Attributes:
      stride: tokens.
    """

    stride: config.PositiveInt

    def make(self, num_heads: int) -> Pattern:
        return strided(self.stride)
