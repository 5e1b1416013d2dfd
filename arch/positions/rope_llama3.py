"""Rotary positions extended as in Llama 3.1: long wavelengths are interpolated, short ones kept, a ramp between them.

Llama Team, The Llama 3 Herd of Models, 2024, arXiv 2407.21783, sec. 3.4.2; the scaling itself is in its released code.
"""

import numpy as np

from arch import config
from arch.ops import rope as ops
from arch.positions import rope


@config.frozen
class Config(rope.Config):
    """Llama-3 scaling; the published models have factor=8 (3.1), low_freq_factor=1, high_freq_factor=4.

    Attributes:
      factor: how many times slower the slow pairs turn.
      low_freq_factor: pairs that turn less often than this over the rows of training are interpolated.
      high_freq_factor: pairs that turn more often are kept.
      original_length: length of the rows of training, in tokens.
    """

    factor: config.PositiveFloat
    low_freq_factor: config.PositiveFloat
    high_freq_factor: config.PositiveFloat
    original_length: config.PositiveInt

    def check(self):
        if self.high_freq_factor <= self.low_freq_factor:
            rule = f"must be above low_freq_factor={self.low_freq_factor}"
            raise ValueError(f"high_freq_factor={self.high_freq_factor} {rule}")

    def frequencies(self, channels: int) -> np.ndarray:
        """Interpolated, kept, or between the two."""
        return ops.llama3(
            super().frequencies(channels),
            factor=self.factor,
            low_freq_factor=self.low_freq_factor,
            high_freq_factor=self.high_freq_factor,
            original_length=self.original_length,
        )


EXAMPLES = (Config(factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_length=16),)
