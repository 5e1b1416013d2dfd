"""A token's own block and its neighbours, as in LongT5's local attention (Guo et al., 2021, arXiv 2112.07916)."""

from arch import config
from arch.ops.patterns import Pattern, block_local
from arch.patterns._pattern import PatternConfig


@config.frozen
class Config(PatternConfig):
    """Blocks and their neighbours; with none, blocks by themselves.

    Attributes:
      block: tokens.
      before: blocks seen before the own.
      after: blocks seen behind it.
    """

    block: config.PositiveInt
    before: config.SizeOrZero = 1
    after: config.SizeOrZero = 1

    def make(self, num_heads: int) -> Pattern:
        return block_local(self.block, before=self.before, after=self.after)
