"""Where an answer starts and where it ends: two logits for each token.

Devlin et al., BERT, 2018, arXiv 1810.04805, sec. 4.2 (its shift is in the released code).
"""

from collections.abc import Callable

import flax.linen as nn

from arch import config
from arch.layers.affine import affine
from arch.layers.contract import Context, Output
from arch.typing import Array, Float


@config.frozen
class Config(config.Config):
    """Span head."""

    def make(self, name: str | None = None) -> "Span":
        """The Linen module."""
        return Span(self, name=name)


class Span(nn.Module):
    """x = logits [b t 2] of being the first and the last token of the answer."""

    cfg: Config

    @nn.compact
    def __call__(self, x: Float[Array, "b t d"], context: Context, unembed: Callable) -> Output:
        return Output(affine(self, "output", x, labels=2))


EXAMPLES = (Config(),)
