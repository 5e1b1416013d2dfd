"""Rotary positions with a larger base, so that the slowest pair is interpolated and the fastest hardly changes.

    theta' = theta * factor^(h / (h - 2))

NTK-aware interpolation (bloc97, 2023), as in Peng et al., YaRN, 2023, arXiv 2309.00071, sec. 3.1, definition 1.
"""

import numpy as np

from arch import config
from arch.ops import rope as ops
from arch.positions import rope


@config.frozen
class Config(rope.Config):
    """NTK-aware interpolation.

    Attributes:
      factor: how many times longer the rows are than those of training.
    """

    factor: config.PositiveFloat

    def frequencies(self, channels: int) -> np.ndarray:
        """Those of the larger base."""
        return ops.frequencies(channels, ops.ntk_theta(self.theta, channels, factor=self.factor))


EXAMPLES = (Config(factor=4.0),)
