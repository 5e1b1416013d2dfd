"""A label for each token: named entities, parts of speech (Devlin et al., BERT, 2018, arXiv 1810.04805, sec. 5.3)."""

from collections.abc import Callable

import flax.linen as nn

from arch import config
from arch.layers.affine import affine
from arch.layers.contract import Context, HeadConfig, Output
from arch.layers.flops import Flops, Row, multiply_adds
from arch.ops.dropout import dropout
from arch.typing import Array, Float


@config.frozen
class Config(HeadConfig):
    """Tagging head.

    Attributes:
      num_labels: classes.
      dropout: probability of zeroing an entry of the hidden states.
    """

    num_labels: config.PositiveInt = 2
    dropout: config.Fraction = 0.0

    def make(self, name: str | None = None) -> "Tagging":
        """The Linen module."""
        return Tagging(self, name=name)

    def flops(self, row: Row, unembed: Flops) -> Flops:
        """A product of each token."""
        return multiply_adds(row.length * row.embed_dim * self.num_labels)


class Tagging(nn.Module):
    """x = logits [b t labels]."""

    cfg: Config

    @nn.compact
    def __call__(self, x: Float[Array, "b t d"], context: Context, unembed: Callable) -> Output:
        if self.cfg.dropout and not context.deterministic:
            x = dropout(x, context.key, rate=self.cfg.dropout)
        return Output(affine(self, "output", x, labels=self.cfg.num_labels))


EXAMPLES = (Config(num_labels=5), Config(dropout=0.1))
