"""Bases of the configs of patterns."""

from arch import config
from arch.ops.patterns import Pattern


class PatternConfig(config.Config):
    """Which query sees which key, by their places in the row; lengths are not known yet."""

    def make(self, num_heads: int) -> Pattern:
        """The pattern, for so many query heads."""
        raise NotImplementedError


@config.frozen
class Composition(PatternConfig):
    """A pattern of patterns.

    Attributes:
      parts: patterns.
    """

    parts: tuple[config.choice("patterns"), ...]

    def check(self):
        if not self.parts:
            raise ValueError("parts=() must have a pattern")
