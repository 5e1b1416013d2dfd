"""Several patterns at once: a query sees a key where all of them let it."""

import functools
import operator

from arch import config
from arch.ops.patterns import Pattern
from arch.patterns._pattern import Composition


@config.frozen
class Config(Composition):
    """The composition."""

    def make(self, num_heads: int) -> Pattern:
        return functools.reduce(operator.and_, (part.make(num_heads) for part in self.parts))
