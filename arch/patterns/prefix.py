"""The first tokens are seen by all, the rest is causal (Raffel et al., T5, 2019, arXiv 1910.10683, sec. 3.2.1)."""

from arch import config
from arch.ops.patterns import Pattern, prefix
from arch.patterns._pattern import PatternConfig


@config.frozen
class Config(PatternConfig):
    """A prefix-LM's pattern.

    Attributes:
      length: tokens of the prefix.
    """

    length: config.PositiveInt

    def make(self, num_heads: int) -> Pattern:
        return prefix(self.length)
