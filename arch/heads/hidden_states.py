"""No head: the hidden states themselves, [b t d]."""

from collections.abc import Callable

import flax.linen as nn

from arch import config
from arch.layers.contract import Context, HeadConfig, Output
from arch.layers.flops import Flops, Row
from arch.typing import Array, Float


@config.frozen
class Config(HeadConfig):
    """No head."""

    def make(self, name: str | None = None) -> "HiddenStates":
        """The Linen module."""
        return HiddenStates(self, name=name)

    def flops(self, row: Row, unembed: Flops) -> Flops:
        """None."""
        return Flops()


class HiddenStates(nn.Module):
    """x = hidden states [b t d]."""

    cfg: Config

    def __call__(self, x: Float[Array, "b t d"], context: Context, unembed: Callable) -> Output:
        return Output(x)


EXAMPLES = (Config(),)
