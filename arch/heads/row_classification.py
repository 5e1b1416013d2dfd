"""A label for each row, from a perceptron on its first token or on the mean of all its tokens.

    logits = relu(p W + b) V + c,  p = h_0 or mean_t h_t

Tay et al., Long Range Arena, 2020, arXiv 2011.04006: the head of its released code (google-research/long-range-arena,
`classifier_head`), which takes the mean over padding too, where here it is that of the tokens alone. Where the mean is
read, no token need see the whole row, so that layers which look back alone serve as well.
"""

from collections.abc import Callable
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from arch import config
from arch.layers.affine import affine
from arch.layers.contract import Context, HeadConfig, Output
from arch.layers.flops import Flops, Row, multiply_adds
from arch.typing import Array, Bool, Float


@config.frozen
class Config(HeadConfig):
    """Classification of rows.

    Attributes:
      num_labels: classes.
      hidden_dim: width of the perceptron.
      pool: what it reads: the 'first' token's state, or the 'mean' of all that are no padding.
    """

    num_labels: config.PositiveInt = 2
    hidden_dim: config.PositiveInt = 1024
    pool: Literal["first", "mean"] = "first"

    @property
    def looks(self) -> bool:
        """The mean has all tokens in it."""
        return self.pool == "first"

    def make(self, name: str | None = None) -> "RowClassification":
        """The Linen module."""
        return RowClassification(self, name=name)

    def flops(self, row: Row, unembed: Flops) -> Flops:
        """Two products of one vector a row, and the mean."""
        mean = 0 if self.looks else row.length * row.embed_dim
        return multiply_adds((row.embed_dim + self.num_labels) * self.hidden_dim + mean)


class RowClassification(nn.Module):
    """x = logits [b labels]."""

    cfg: Config

    @nn.compact
    def __call__(self, x: Float[Array, "b t d"], context: Context, unembed: Callable) -> Output:
        if context.segment_ids is not None:
            raise ValueError("segment_ids must be None for a class of a row, which is one document")
        pooled = x[:, 0] if self.cfg.pool == "first" else mean(x, context.valid)
        hidden = jax.nn.relu(affine(self, "dense", pooled, hidden=self.cfg.hidden_dim))
        return Output(affine(self, "output", hidden, labels=self.cfg.num_labels))


def mean(x: Float[Array, "b t d"], valid: Bool[Array, "b t"] | None) -> Float[Array, "b d"]:
    """[b d] the mean of each row's tokens that are no padding."""
    counted = jnp.ones(x.shape[:2]) if valid is None else valid.astype(jnp.float32)
    shares = counted / jnp.maximum(jnp.sum(counted, axis=1, keepdims=True), 1.0)
    return jnp.einsum("bt,btd->bd", shares, x.astype(jnp.float32)).astype(x.dtype)


EXAMPLES = (Config(num_labels=3, hidden_dim=5), Config(hidden_dim=5, pool="mean"))
