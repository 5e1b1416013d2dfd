"""The loss of a token, or of whatever else has one of several ids or classes as its target.

Label smoothing, the z-loss and chunks: `arch.ops.chunked_cross_entropy`. Evaluations and everything that is counted in
nats or bits leave the first two out.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from arch import config
from arch.layers.embedding import Unembedding
from arch.ops.chunked_cross_entropy import chunked_cross_entropy, token_loss
from arch.sharding.context import by_shard
from arch.sharding.mesh import constrain
from arch.typing import Array, Float, Int


class Sums(NamedTuple):
    """Sums over targets, each times its weight.

    loss: what is descended.
    nats: -log p(target).
    correct: 1 where no other id or class is likelier than the target.
    """

    loss: Float[Array, ""]
    nats: Float[Array, ""]
    correct: Float[Array, ""]


@config.frozen
class Config(config.Config):
    """The loss of a token.

    Attributes:
      label_smoothing: share of the target that all ids divide among them.
      z_weight: factor of the squared log of the softmax's normaliser.
      chunk_tokens: tokens whose logits exist at a time, to save memory at no change of value; 0 for all of a
        micro-batch.
    """

    label_smoothing: config.Fraction = 0.0
    z_weight: config.NonNegativeFloat = 0.0
    chunk_tokens: config.SizeOrZero = 0

    def tokens(
        self,
        x: Float[Array, "b t d"],
        unembed: Unembedding,
        targets: Int[Array, "b t"],
        weights: Float[Array, "b t"],
    ) -> Sums:
        """Of tokens, from hidden states and what makes their logits, as many at a time as `chunk_tokens` allows."""
        if not self.chunk_tokens:
            return self.classes(unembed(x), targets, weights)
        x, table = _whole_rows(x, unembed.table)
        kind = dict(label_smoothing=self.label_smoothing, z_weight=self.z_weight, soft_cap=unembed.soft_cap)
        x, targets, weights = map(by_shard, (x, targets, weights))
        return Sums(*chunked_cross_entropy(x, table, targets, weights, unembed.bias, chunk=self.chunk_tokens, **kind))

    def classes(self, logits: Float[Array, "*b v"], targets: Int[Array, "*b"], weights: Float[Array, "*b"]) -> Sums:
        """Of anything with logits."""
        kind = dict(label_smoothing=self.label_smoothing, z_weight=self.z_weight)
        return Sums(*(jnp.sum(value * weights) for value in token_loss(logits, targets, **kind)))


@jax.custom_vjp
def _whole_rows(x: Float[Array, "b t d"], table: Float[Array, "v d"]):
    """Both, the table's rows whole on each shard of the vocabulary.

    Backwards its gradient, which each device has in float32 and whole for its own tokens, is summed into shards before
    any layer's gradient begins: it may be larger than all that a layer needs.
    """
    return x, constrain(table, "vocab", None)


def _whole_rows_backward(_, gradients):
    d_x, d_table = gradients
    d_table = constrain(constrain(d_table, "vocab", None), "vocab", "embed")  # summed once, not a chunk at a time
    return lax.optimization_barrier((d_x, d_table))


_whole_rows.defvjp(lambda x, table: (_whole_rows(x, table), None), _whole_rows_backward)
