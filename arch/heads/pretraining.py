"""BERT's two tasks: the masked tokens, and whether the second sentence follows the first.

Devlin et al., BERT, 2018, arXiv 1810.04805, sec. 3.1.
"""

import flax.linen as nn

from arch import config
from arch.heads import masked_lm, pooler
from arch.layers.affine import affine
from arch.layers.contract import Context, HeadConfig, Output
from arch.layers.embedding import Unembedding
from arch.layers.flops import Flops, Row, multiply_adds
from arch.typing import Array, Float


@config.frozen
class Config(HeadConfig):
    """Both heads.

    Attributes:
      tokens: the head for masked tokens.
    """

    tokens: masked_lm.Config = masked_lm.Config()

    def make(self, name: str | None = None) -> "Pretraining":
        """The Linen module."""
        return Pretraining(self, name=name)

    def flops(self, row: Row, unembed: Flops) -> Flops:
        """Of both heads."""
        return self.tokens.flops(row, unembed) + pooler.Config().flops(row, unembed) + multiply_adds(2 * row.embed_dim)


class Pretraining(nn.Module):
    """x and `shared["unembed"]` of the masked-token head; `shared["next_sentence"]`, logits [b 2], 0 "it follows"."""

    cfg: Config

    @nn.compact
    def __call__(self, x: Float[Array, "b t d"], context: Context, unembed: Unembedding) -> Output:
        pooled = pooler.Config().make("pooler")(x, context).shared["pooled"]
        next_sentence = affine(self, "next_sentence", pooled, labels=2)
        tokens = self.cfg.tokens.make("masked_lm")(x, context, unembed)
        return Output(tokens.x, shared=tokens.shared | {"next_sentence": next_sentence})


EXAMPLES = (Config(),)
