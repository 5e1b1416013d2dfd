"""Rotary positions extended by YaRN: slow pairs are interpolated, fast ones kept, and the logits scaled.

Peng et al., YaRN: Efficient Context Window Extension of Large Language Models, 2023, arXiv 2309.00071, sec. 3.
"""

import math

import numpy as np

from arch import config
from arch.ops import rope as ops
from arch.positions import rope


@config.frozen
class Config(rope.Config):
    """YaRN.

    Attributes:
      factor: how many times longer the rows are than those of training.
      original_length: length of the rows of training, in tokens.
      beta_fast: pairs that turn more often than this over those rows are kept.
      beta_slow: pairs that turn less often are interpolated; between the two lies a ramp.
      amplitude: factor of queries and keys; 0 for the paper's 0.1 ln(factor) + 1 (eq. 22).
      truncate: the ramp's ends are whole pairs, as in the released code.
    """

    factor: config.PositiveFloat
    original_length: config.PositiveInt
    beta_fast: config.PositiveFloat = 32.0
    beta_slow: config.PositiveFloat = 1.0
    amplitude: config.NonNegativeFloat = 0.0
    truncate: bool = True

    def check(self):
        if self.beta_fast < self.beta_slow:
            raise ValueError(f"beta_fast={self.beta_fast} must be at least beta_slow={self.beta_slow}")

    def frequencies(self, channels: int) -> np.ndarray:
        """Interpolated, kept, or between the two."""
        return ops.yarn(
            super().frequencies(channels),
            theta=self.theta,
            factor=self.factor,
            original_length=self.original_length,
            beta_fast=self.beta_fast,
            beta_slow=self.beta_slow,
            truncate=self.truncate,
        )

    @property
    def magnitude(self) -> float:
        """The amplitude, with the default resolved; 1 where nothing is extended."""
        return self.amplitude or 0.1 * math.log(max(self.factor, 1.0)) + 1.0


EXAMPLES = (Config(factor=4.0, original_length=8),)
