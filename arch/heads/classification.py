"""A label for each row, from its pooled first token.

    logits = f(h_0 W + b) V + c,  f = tanh

Devlin et al., BERT, 2018, arXiv 1810.04805, sec. 4.1. RoBERTa's own head (Liu et al., 2019, arXiv 1907.11692) is the
same function; its released code also drops entries of h_0, where here only those of the pooled vector are dropped.
"""

from collections.abc import Callable

import flax.linen as nn

from arch import config
from arch.heads import pooler
from arch.layers.affine import affine
from arch.layers.contract import Context, HeadConfig, Output
from arch.layers.flops import Flops, Row, multiply_adds
from arch.ops.activation import Activation
from arch.ops.dropout import dropout
from arch.typing import Array, Float


@config.frozen
class Config(HeadConfig):
    """Classification head.

    Attributes:
      num_labels: classes.
      dropout: probability of zeroing an entry of the pooled vector.
      activation: f.
    """

    num_labels: config.PositiveInt = 2
    dropout: config.Fraction = 0.0
    activation: Activation = "tanh"

    def make(self, name: str | None = None) -> "Classification":
        """The Linen module."""
        return Classification(self, name=name)

    def flops(self, row: Row, unembed: Flops) -> Flops:
        """The pooler, and a product of one vector a row."""
        return pooler.Config().flops(row, unembed) + multiply_adds(row.embed_dim * self.num_labels)


class Classification(nn.Module):
    """x = logits [b labels]."""

    cfg: Config

    @nn.compact
    def __call__(self, x: Float[Array, "b t d"], context: Context, unembed: Callable) -> Output:
        pooled = pooler.Config(activation=self.cfg.activation).make("pooler")(x, context).shared["pooled"]
        if self.cfg.dropout and not context.deterministic:
            pooled = dropout(pooled, context.key, rate=self.cfg.dropout)
        return Output(affine(self, "output", pooled, labels=self.cfg.num_labels))


EXAMPLES = (Config(num_labels=3), Config(dropout=0.1))
