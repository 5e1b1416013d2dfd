"""The hidden states, and one vector for each row: a learned projection of its first token.

    pooled = tanh(h_0 W + b)

Devlin et al., BERT, 2018, arXiv 1810.04805, sec. 3.1 (C, the final hidden state of [CLS]); the projection is in its
released code.
"""

from collections.abc import Callable

import flax.linen as nn
import jax.numpy as jnp

from arch import config
from arch.layers.affine import affine
from arch.layers.contract import Context, HeadConfig, Output
from arch.layers.flops import Flops, Row, multiply_adds
from arch.typing import Array, Float


@config.frozen
class Config(HeadConfig):
    """The pooler."""

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
        pooled = jnp.tanh(affine(self, "dense", x[:, 0], hidden=x.shape[-1])).astype(x.dtype)
        return Output(x, shared={"pooled": pooled})


EXAMPLES = (Config(),)
