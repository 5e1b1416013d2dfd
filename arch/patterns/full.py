"""Every token sees every token: no pattern."""

from arch import config
from arch.ops.patterns import Pattern, full
from arch.patterns._pattern import PatternConfig


@config.frozen
class Config(PatternConfig):
    """All pairs."""

    def make(self, num_heads: int) -> Pattern:
        return full
