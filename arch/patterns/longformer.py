"""A sliding window, perhaps dilated, and global tokens (Beltagy et al., Longformer, 2020, arXiv 2004.05150, sec. 3)."""

from typing import Annotated

from arch import config
from arch.ops.patterns import Pattern, global_tokens, window
from arch.patterns._pattern import PatternConfig


@config.frozen
class Config(PatternConfig):
    """Longformer's pattern with global tokens at fixed places.

    Attributes:
      window: tokens, half of them before and half behind; even.
      dilation: places from one to the next.
      globals: places that see all and are seen by all; below 0 from the row's end.
    """

    window: config.PositiveInt = 512
    dilation: config.PositiveInt = 1
    globals: tuple[Annotated[int, config.Range(-(2**31), 2**31 - 1)], ...] = (0,)

    def check(self):
        if self.window % 2:
            raise ValueError(f"window={self.window} must be even: half of it before a token, half behind")

    def make(self, num_heads: int) -> Pattern:
        return window(self.window // 2 + 1, dilation=self.dilation) | global_tokens(*self.globals)
