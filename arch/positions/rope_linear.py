"""Rotary positions divided by a factor, so that a longer row has the angles of a shorter one.

Chen et al., Extending Context Window of Large Language Models via Position Interpolation, 2023, arXiv 2306.15595.
"""

import numpy as np

from arch import config
from arch.positions import rope


@config.frozen
class Config(rope.Config):
    """Linear interpolation.

    Attributes:
      factor: how many times longer the rows are than those of training.
    """

    factor: config.PositiveFloat

    def frequencies(self, channels: int) -> np.ndarray:
        """Every frequency divided by the factor."""
        return super().frequencies(channels) / self.factor


EXAMPLES = (Config(factor=4.0),)
