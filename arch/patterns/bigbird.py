"""Window, random and global blocks (Zaheer et al., Big Bird, 2020, arXiv 2007.14062, sec. 2 and app. D).

Global tokens are those of the first and last blocks of the row (internal, "ITC").
"""

from arch import config
from arch.ops.patterns import Pattern, block_local, ends, random_blocks
from arch.patterns._pattern import PatternConfig


@config.frozen
class Config(PatternConfig):
    """BigBird's pattern.

    Attributes:
      block: tokens of a block.
      window: blocks around a token's own, itself included; odd.
      random: blocks drawn for each block of queries, of those outside window and global tokens.
      globals: global blocks at each end of the row.
      seed: of the draws. Layers with seeds of their own see different blocks.
      per_head: each head draws for itself.
    """

    block: config.PositiveInt = 64
    window: config.PositiveInt = 3
    random: config.SizeOrZero = 3
    globals: config.SizeOrZero = 1
    seed: config.NonNegativeInt = 0
    per_head: bool = False

    def check(self):
        if self.window % 2 == 0:
            raise ValueError(f"window={self.window} must be odd: a token's own block and as many on either side")

    def make(self, num_heads: int) -> Pattern:
        side, edge = self.window // 2, self.globals * self.block
        near = block_local(self.block, before=side, after=side) | ends(edge, edge)
        draws = num_heads if self.per_head else 1
        return near | random_blocks(self.random, self.seed, size=self.block, draws=draws, outside=near)
