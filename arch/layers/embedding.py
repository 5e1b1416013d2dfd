"""Token embedding, what positions add to it, and the unembedding that may share its table.

The shared table: Press, Wolf, Using the Output Embedding to Improve Language Models, 2016, arXiv 1608.05859.
"""

import dataclasses
from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax.tree_util import register_dataclass

from arch import config
from arch.layers.contract import Context, Position
from arch.layers.weight import normal, weight
from arch.ops.chunked_cross_entropy import soft_capped
from arch.sharding.mesh import constrain
from arch.typing import Array, Float, Int


@config.frozen
class Config(config.Config):
    """The embedding table's start and use.

    Attributes:
      stddev: standard deviation of the initial entries.
      scale: factor of the embedded tokens; 0 for sqrt(embed_dim), as in the 2017 Transformer and Gemma.
    """

    stddev: config.PositiveFloat = 0.02
    scale: config.NonNegativeFloat = 1.0

    def make(self, vocab_size: int, embed_dim: int, tied: bool, name: str | None = None) -> "Embedding":
        """The Linen module, for the widths of the model that holds it."""
        return Embedding(self, vocab_size, embed_dim, tied, name=name)


@register_dataclass
@dataclasses.dataclass(frozen=True)
class Unembedding:
    """What makes logits of hidden states: cap tanh((table x + bias) / cap).

    Attributes:
      table: [v d] in the dtype in which the model computes.
      bias: [v] float32; None for none.
      soft_cap: bound of the logits; 0 for none.
    """

    table: Float[Array, "v d"]
    bias: Float[Array, "v"] | None = None
    soft_cap: float = dataclasses.field(default=0.0, metadata={"static": True})

    def __call__(self, x: Float[Array, "b t d"]) -> Float[Array, "b t v"]:
        """Logits in float32, from products in x's dtype."""
        logits = jnp.einsum("btd,vd->btv", x, self.table, preferred_element_type=jnp.float32)
        logits = logits if self.bias is None else logits + self.bias
        return soft_capped(constrain(logits, "batch", "sequence", "vocab"), self.soft_cap)


class Embedding(nn.Module):
    """`encode` turns ids into vectors, `unembedding` is what turns vectors into logits."""

    cfg: Config
    vocab_size: int
    embed_dim: int
    tied: bool

    def setup(self):
        widths = {"vocab": self.vocab_size, "embed": self.embed_dim}
        self.table = weight(self, "table", normal(self.cfg.stddev), **widths)
        if not self.tied:
            self.output = weight(self, "output", normal(self.embed_dim**-0.5), **widths)

    def encode(self, tokens: Int[Array, "b t"], dtype: Any) -> Float[Array, "b t d"]:
        """The rows of the table, in the dtype in which the model computes."""
        x = constrain(self.table.astype(dtype)[tokens], "batch", None, "embed")
        x = constrain(x, "batch", "sequence", None)  # one axis at a time: XLA knows no way for two at once
        return x * jnp.asarray(self.cfg.scale or self.embed_dim**0.5, dtype)

    def unembedding(self, dtype: Any, soft_cap: float = 0.0) -> Unembedding:
        """The table that is tied to this one, or apart from it, in the dtype in which the model computes."""
        return Unembedding((self.table if self.tied else self.output).astype(dtype), soft_cap=soft_cap)


class AddPosition(nn.Module):
    """x -> x + what a position scheme adds at the input."""

    cfg: Position

    @nn.compact
    def __call__(self, x: Float[Array, "b t d"], context: Context) -> Float[Array, "b t d"]:
        positions = context.positions
        if limit := self.cfg.max_length:  # padding may stand beyond a learned table
            positions = jnp.where(context.real(), positions, jnp.minimum(positions, limit - 1))
        return x + self.cfg.embed(partial(weight, self), positions, x.shape[-1]).astype(x.dtype)
