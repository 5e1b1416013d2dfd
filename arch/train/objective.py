"""What a training step descends: a weighted mean over the batch's target tokens, and the layers' own losses.

    loss = sum_i w_i loss_i / sum_i w_i  +  sum of the layers' own losses

loss_i is -log p(target_i), or that with label smoothing and the z-loss of `arch.ops.chunked_cross_entropy`. Evaluations
and everything that is counted in nats or bits leave these two out.
"""

import jax.numpy as jnp

from arch import config
from arch.layers.contract import Context
from arch.ops.chunked_cross_entropy import chunked_cross_entropy, token_loss
from arch.typing import Array, Key

Batch = dict[str, Array]


@config.frozen
class Config(config.Config):
    """The loss of a token.

    Attributes:
      label_smoothing: share of the target that all ids divide among them.
      z_weight: factor of the squared log of the softmax's normaliser.
      chunk_tokens: tokens whose logits exist at a time, to save memory at no change of value; 0 for a whole micro-batch.
    """

    label_smoothing: config.Fraction = 0.0
    z_weight: config.NonNegativeFloat = 0.0
    chunk_tokens: config.NonNegativeInt = 0

    def must_suit(self, model) -> None:
        """Raises ValueError when the Linen module cannot be trained with this loss."""
        if self.chunk_tokens and not hasattr(model, "unembedding"):
            raise ValueError(
                f"loss.chunk_tokens={self.chunk_tokens} must be 0 with this model: {type(model).__name__} does not "
                "give its hidden states apart from its logits"
            )

    def sums(self, module, batch: Batch, context: Context) -> tuple[Array, dict]:
        """Weighted sum of the tokens' losses, and what to log: `nats` (the plain sum), `losses`, `stats`.

        Args:
          module: the bound Linen module.
          batch: tokens, targets, weights: [b t] each.
          context: what its layers may read.
        """
        targets, weights = batch["targets"], batch["weights"]
        kind = dict(label_smoothing=self.label_smoothing, z_weight=self.z_weight)
        if self.chunk_tokens:
            out = module.hidden(batch["tokens"], context)
            kind |= dict(chunk=self.chunk_tokens, soft_cap=module.cfg.logit_soft_cap)
            loss, nats = chunked_cross_entropy(out.x, module.unembedding(), targets, weights, **kind)
        else:
            out = module(batch["tokens"], context)
            loss, nats = (jnp.sum(value * weights) for value in token_loss(out.x, targets, **kind))
        return loss, {"nats": nats, "losses": out.aux.losses, "stats": out.aux.stats}


def objective(
    model,
    params,
    batch: Batch,
    total_weight,
    key: Key[Array, ""] | None,
    *,
    loss: Config = Config(),
    micro_batches: int = 1,
) -> tuple[Array, dict]:
    """The part of the loss that these rows add, and what to log of it.

    Args:
      model: a Linen module whose call is `(tokens, context) -> Output`.
      params: its parameters.
      batch: tokens, targets, segment_ids, positions, weights: [b t] each.
      total_weight: sum of `weights` over all rows of the optimizer step.
      key: for dropout; None to be deterministic.
      loss: of a token.
      micro_batches: as many parts as this one make the whole batch.
    """
    context = Context(
        positions=batch["positions"], segment_ids=batch["segment_ids"], key=key, deterministic=key is None
    )
    total, log = model.apply({"params": params}, batch, context, method=lambda module, *args: loss.sums(module, *args))
    return total / total_weight + sum(log["losses"].values()) / micro_batches, log
