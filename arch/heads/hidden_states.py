"""No head: the hidden states themselves, [b t d]."""

from collections.abc import Callable

import flax.linen as nn

from arch import config
from arch.layers.contract import Context, Output
from arch.typing import Array, Float


@config.frozen
class Config(config.Config):
    """No head."""

    def make(self, name: str | None = None) -> "HiddenStates":
        """The Linen module."""
        return HiddenStates(self, name=name)


class HiddenStates(nn.Module):
    """x = hidden states [b t d]."""

    cfg: Config

    def __call__(self, x: Float[Array, "b t d"], context: Context, unembed: Callable) -> Output:
        return Output(x)


EXAMPLES = (Config(),)
