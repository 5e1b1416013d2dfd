"""Heads that see differently (Beltagy et al., 2020, arXiv 2004.05150, sec. 4; Child et al., 2019, arXiv 1904.10509)."""

from arch import config
from arch.ops.patterns import Pattern, by_head
from arch.patterns._pattern import Composition


@config.frozen
class Config(Composition):
    """A pattern for each equal share of the heads, the first part for the first heads."""

    def make(self, num_heads: int) -> Pattern:
        if num_heads % len(self.parts):
            raise ValueError(f"num_heads={num_heads} must be a multiple of the {len(self.parts)} parts of by_head")
        return by_head(*(part.make(num_heads) for part in self.parts), each=num_heads // len(self.parts))
