"""Dual encoder: two texts a row, each encoded apart from the other by one encoder, and a head on both.

    a_1 ... a_t  b_1 ... b_t  ->  encoder(a), encoder(b)  ->  head

Tay et al., Long Range Arena, 2020, arXiv 2011.04006, sec. 2.2.3: no layer sees both texts. Each half of a row is one
text, padded at its own end; the layers read halves as rows of their own, so that this holds of every mixer, and of its
sense of where a row begins.
"""

import dataclasses
from typing import Any

import jax

from arch import config
from arch.heads import pair_classification
from arch.layers.contract import Context, Output, positions_of
from arch.layers.flops import Flops, Row, multiply_adds
from arch.models import encoder
from arch.typing import Array, Int, Shaped

OF_TOKENS = ("positions", "valid", "globals", "token_types", "tokens", "routes")
"""Fields of a context that have a value for each token."""


@config.frozen
class Config(encoder.Config):
    """Dual encoder: an encoder of texts.

    Attributes:
      head: what is made of the hidden states of both texts, one behind the other.
    """

    head: config.choice("heads") = pair_classification.Config()

    def make(self) -> "DualEncoder":
        """The Linen module."""
        return DualEncoder(self)

    def flops(self, length: int, predicted: int = 0) -> Flops:
        """Of a forward pass over one row of so many tokens, half of them of either text; as of an encoder."""
        unembed = multiply_adds((predicted or length) * self.embed_dim * self.vocab_size)
        text = Row(self.global_tokens + length // 2, self.embed_dim)
        return self.layers.flops(text) * 2 + self.head.flops(Row(length, self.embed_dim), unembed)


class DualEncoder(encoder.Encoder):
    """tokens [b 2t] -> what the head makes of the hidden states [b 2t d]."""

    cfg: Config

    def hidden(self, tokens: Int[Array, "b t"], context: Context | None = None, cache: Any = None) -> Output:
        """As of an encoder, with the positions of both texts counted from 0.

        Raises:
          ValueError: a row of which there are no halves, or packed rows.
        """
        half = max(1, tokens.shape[1] // 2)
        if context is None:
            self.cfg.position.must_know(half)
            context = Context(positions=positions_of(tokens) % half)
        return super().hidden(tokens, context, cache)

    def encoded(self, context: Context) -> Output:
        """As of an encoder, of either text by itself."""
        if self.is_initializing():  # one token: weights do not depend on how many there are
            return super().encoded(context)
        shape = context.tokens.shape
        if shape[1] % 2:
            raise ValueError(f"tokens={shape[1]} of a row must be a multiple of 2, a half for either text")
        if context.segment_ids is not None:
            raise ValueError("segment_ids must be None for a dual encoder: each half of a row is one text")
        of_texts = {name: jax.tree.map(apart, getattr(context, name)) for name in OF_TOKENS}
        out = super().encoded(dataclasses.replace(context, **of_texts))
        return dataclasses.replace(out, x=out.x.reshape(*shape, -1))


def apart(array: Shaped[Array, "b t *rest"]) -> Shaped[Array, "_ _ *rest"]:
    """The halves of each row as two rows, one behind the other."""
    b, t = array.shape[:2]
    return array.reshape(2 * b, t // 2, *array.shape[2:])
