"""A label for each pair of texts, from a perceptron on what both are pooled to, and on how these compare.

    logits = relu([p, q, p q, p - q] W + b) V + c,  p, q: h_0 or mean_t h_t of either half of the row

Tay et al., Long Range Arena, 2020, arXiv 2011.04006, app. A.1.3, eq. 1. Its released code (google-research/
long-range-arena, `classifier_head_dual`) has one more hidden layer, and leaves the product and the difference out
unless it is told otherwise, which its own runs do not.
"""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from arch import config
from arch.heads import row_classification
from arch.layers.affine import affine
from arch.layers.contract import Context, Output
from arch.layers.flops import Flops, Row, multiply_adds
from arch.typing import Array, Float


@config.frozen
class Config(row_classification.Config):
    """Classification of pairs: as of rows, of which each half is a text that begins and is padded by itself."""

    def make(self, name: str | None = None) -> "PairClassification":
        """The Linen module."""
        return PairClassification(self, name=name)

    def flops(self, row: Row, unembed: Flops) -> Flops:
        """Two products of one vector a row, four times as wide as a state, what compares two states, and the means."""
        mean = 0 if self.looks else row.length * row.embed_dim
        return multiply_adds((4 * row.embed_dim + self.num_labels) * self.hidden_dim + row.embed_dim + mean)


class PairClassification(nn.Module):
    """x = logits [b labels]."""

    cfg: Config

    @nn.compact
    def __call__(self, x: Float[Array, "b t d"], context: Context, unembed: Callable) -> Output:
        if context.segment_ids is not None:
            raise ValueError("segment_ids must be None for a class of a row, each half of which is one text")
        half, valid = x.shape[1] // 2, jnp.ones(x.shape[:2], bool) if context.valid is None else context.valid
        if self.cfg.pool == "first":
            p, q = x[:, 0], x[:, half]
        else:
            p, q = (row_classification.mean(x[:, part], valid[:, part]) for part in (slice(half), slice(half, None)))
        both = jnp.concatenate([p, q, p * q, p - q], axis=-1)
        hidden = jax.nn.relu(affine(self, "dense", both, hidden=self.cfg.hidden_dim))
        return Output(affine(self, "output", hidden, labels=self.cfg.num_labels))


EXAMPLES = (Config(num_labels=3, hidden_dim=5), Config(hidden_dim=5, pool="mean"))
