"""Logits of the token at each place, by the embedding's table alone: h E^T.

Press, Wolf, Using the Output Embedding to Improve Language Models, 2016, arXiv 1608.05859.
"""

import flax.linen as nn

from arch import config
from arch.layers.contract import Context, HeadConfig, Output
from arch.layers.embedding import Unembedding
from arch.layers.flops import Flops, Row
from arch.typing import Array, Float


@config.frozen
class Config(HeadConfig):
    """The table, without a projection, norm or bias of its own."""

    def make(self, name: str | None = None) -> "Unembed":
        """The Linen module."""
        return Unembed(self, name=name)

    def flops(self, row: Row, unembed: Flops) -> Flops:
        """The unembedding of the tokens that are predicted."""
        return unembed


class Unembed(nn.Module):
    """x = hidden states [b t d], of which `shared["unembed"]`, the table, makes logits [b t v]."""

    cfg: Config

    def __call__(self, x: Float[Array, "b t d"], context: Context, unembed: Unembedding) -> Output:
        return Output(x, shared={"unembed": unembed})


EXAMPLES = (Config(),)
