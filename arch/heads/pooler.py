"""The hidden states, and one vector for each row: a learned projection of its first token.

    pooled = f(h_0 W + b),  f = tanh

Devlin et al., BERT, 2018, arXiv 1810.04805, sec. 3.1 (C, the final hidden state of [CLS]); the projection is in its
released code. BigBird's classifier in transformers has an f of its own.
"""

from collections.abc import Callable

import flax.linen as nn

from arch import config
from arch.layers.affine import affine
from arch.layers.contract import Context, HeadConfig, Output
from arch.layers.flops import Flops, Row, multiply_adds
from arch.ops.activation import ACTIVATIONS, Activation
from arch.typing import Array, Float


@config.frozen
class Config(HeadConfig):
    """The pooler.

    Attributes:
      activation: f.
    """

    activation: Activation = "tanh"

    def make(self, name: str | None = None) -> "Pooler":
        """The Linen module."""
        return Pooler(self, name=name)

    def flops(self, row: Row, unembed: Flops) -> Flops:
        """A projection of one vector a row."""
        return multiply_adds(row.embed_dim**2)


class Pooler(nn.Module):
    """x = hidden states [b t d], with `shared["pooled"]` [b d] beside them."""

    cfg: Config

    @nn.compact
    def __call__(self, x: Float[Array, "b t d"], context: Context, unembed: Callable | None = None) -> Output:
        if context.segment_ids is not None:
            raise ValueError("segment_ids must be None for a pooler: it reads the first token of a row, one document")
        pooled = ACTIVATIONS[self.cfg.activation](affine(self, "dense", x[:, 0], hidden=x.shape[-1]))
        return Output(x, shared={"pooled": pooled.astype(x.dtype)})


EXAMPLES = (Config(),)
