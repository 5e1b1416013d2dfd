"""Base of the configs of patterns."""

from arch import config
from arch.ops.patterns import Pattern


class PatternConfig(config.Config):
    """Which query sees which key, by their places in the row; lengths are not known yet."""

    def make(self, num_heads: int) -> Pattern:
        """The pattern, for so many query heads."""
        raise NotImplementedError
