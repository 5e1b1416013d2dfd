"""Where an answer starts and where it ends: two logits for each token.

Devlin et al., BERT, 2018, arXiv 1810.04805, sec. 4.2 (its shift is in the released code).
"""

from collections.abc import Callable

import flax.linen as nn

from arch import config
from arch.layers.affine import affine
from arch.layers.contract import Context, HeadConfig, Output
from arch.layers.flops import Flops, Row, multiply_adds
from arch.typing import Array, Float


@config.frozen
class Config(HeadConfig):
    """Span head."""

    def make(self, name: str | None = None) -> "Span":
        """The Linen module."""
        return Span(self, name=name)

    def flops(self, row: Row, unembed: Flops) -> Flops:
        """A product of each token."""
        return multiply_adds(2 * row.length * row.embed_dim)


class Span(nn.Module):
    """x = logits [b t 2] of being the first and the last token of the answer."""

    cfg: Config

    @nn.compact
    def __call__(self, x: Float[Array, "b t d"], context: Context, unembed: Callable) -> Output:
        return Output(affine(self, "output", x, labels=2))


EXAMPLES = (Config(),)
