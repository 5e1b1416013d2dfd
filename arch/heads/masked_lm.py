"""Logits of the token at each place, for those that were masked: the embedding's table is used again.

    logits = LayerNorm(gelu(h W + b)) E^T + c

Devlin et al., BERT, 2018, arXiv 1810.04805, sec. 3.1, task 1; W, the norm and c are in its released code.
"""

import dataclasses

import flax.linen as nn

from arch import config
from arch.layers import norm as norms
from arch.layers.affine import affine
from arch.layers.contract import Context, HeadConfig, Output
from arch.layers.embedding import Unembedding
from arch.layers.flops import Flops, Row, multiply_adds
from arch.layers.weight import constant, weight
from arch.ops.activation import ACTIVATIONS, Activation
from arch.typing import Array, Float


@config.frozen
class Config(HeadConfig):
    """Masked-token head.

    Attributes:
      activation: after the projection.
      norm: before the unembedding.
    """

    activation: Activation = "gelu"
    norm: norms.Config = norms.Config(kind="layer", epsilon=1e-12, bias=True)

    def make(self, name: str | None = None) -> "MaskedLm":
        """The Linen module."""
        return MaskedLm(self, name=name)

    def flops(self, row: Row, unembed: Flops) -> Flops:
        """A projection of each token, and the unembedding of those that are predicted."""
        return multiply_adds(row.length * row.embed_dim**2) + unembed


class MaskedLm(nn.Module):
    """x = hidden states [b t d], of which `shared["unembed"]`, the table with the bias, makes logits [b t v]."""

    cfg: Config

    @nn.compact
    def __call__(self, x: Float[Array, "b t d"], context: Context, unembed: Unembedding) -> Output:
        hidden = ACTIVATIONS[self.cfg.activation](affine(self, "dense", x, hidden=x.shape[-1]))
        bias = weight(self, "output_bias", constant(0.0), vocab=len(unembed.table))
        hidden = self.cfg.norm.make("norm")(hidden.astype(x.dtype))
        return Output(hidden, shared={"unembed": dataclasses.replace(unembed, bias=bias)})


EXAMPLES = (Config(), Config(activation="gelu_tanh", norm=norms.Config()))
