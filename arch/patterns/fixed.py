"""Own block, and each block's last tokens (Child et al., Sparse Transformers, 2019, arXiv 1904.10509, sec. 4.3)."""

from arch import config
from arch.ops.patterns import Pattern, fixed
from arch.patterns._pattern import PatternConfig


@config.frozen
class Config(PatternConfig):
    """The fixed pattern of both heads' kinds in one; causal.

    Attributes:
      stride: tokens of a block.
      summaries: tokens at a block's end that all later ones see.
    """

    stride: config.PositiveInt
    summaries: config.PositiveInt = 1

    def check(self):
        if self.summaries > self.stride:
            raise ValueError(f"summaries={self.summaries} must be at most stride={self.stride}")

    def make(self, num_heads: int) -> Pattern:
        return fixed(self.stride, summaries=self.summaries)
