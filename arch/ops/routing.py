"""Top-k routing of tokens to experts, and the losses that keep it balanced.

    p = softmax(W x);   the k largest p_i (renormalised to one in Mixtral) weigh the k chosen experts
    balance = E sum_i f_i P_i,  f_i: share of assignments to expert i,  P_i: mean probability of expert i
    z       = mean (logsumexp(W x))^2

Top-k then softmax: Jiang et al., Mixtral of Experts, 2024, arXiv 2401.04088, sec. 2.1. Balance loss: Fedus, Zoph,
Shazeer, Switch Transformers, 2021, arXiv 2101.03961, eq. 4-6. z-loss: Zoph et al., ST-MoE, 2022, arXiv 2202.08906, eq. 5.
Bias balancing: Wang et al., Auxiliary-Loss-Free Load Balancing, 2024, arXiv 2408.15664, alg. 1.

The papers average over a device's batch; here both losses are computed for each sequence and then averaged over the
sequences (DeepSeek-V2, 2024, arXiv 2405.04434, does the same), which makes them independent of how the batch is cut into
shards and micro-batches. Uniform routing gives the balance loss its minimum 1.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jax.tree_util import register_dataclass

from arch.typing import Array, Bool, Float, Int, Scalar


@register_dataclass
@dataclasses.dataclass(frozen=True)
class Routing:
    """What a router decides.

    Attributes:
      experts: [b t c] the c = top_k experts of each token, best first; ties go to the lower number.
      weights: [b t c] float32 factors of their outputs.
      probabilities: [b t e] float32 softmax over all experts.
    """

    experts: Int[Array, "b t c"]
    weights: Float[Array, "b t c"]
    probabilities: Float[Array, "b t e"]


def top_k(
    logits: Float[Array, "b t e"], *, k: int, renormalize: bool, bias: Float[Array, "e"] | None = None
) -> Routing:
    """Each token to its k most probable experts.

    Args:
      logits: [b t e], used in float32.
      k: experts a token.
      renormalize: the k weights sum to one (Mixtral), else they are the probabilities themselves (Switch).
      bias: [e] added to the probabilities for the choice only, never to the weights (loss-free balancing).
    """
    probabilities = jax.nn.softmax(logits.astype(jnp.promote_types(logits.dtype, jnp.float32)), axis=-1)
    score = probabilities if bias is None else probabilities + jax.lax.stop_gradient(bias)
    experts = jax.lax.top_k(score, k)[1]
    weights = jnp.take_along_axis(probabilities, experts, axis=-1)
    if renormalize:
        weights = weights / jnp.sum(weights, axis=-1, keepdims=True)
    return Routing(experts, weights, probabilities)


def load(experts: Int[Array, "b t c"], mask: Bool[Array, "b t"], *, num_experts: int) -> Float[Array, "b e"]:
    """[b e] each row's share of assignments to each expert, over its real tokens; a row of padding gives zeros."""
    chosen = jax.nn.one_hot(experts, num_experts, dtype=jnp.float32).sum(axis=2) * mask[..., None]
    counts = chosen.sum(axis=1)
    return counts / jnp.maximum(counts.sum(axis=-1, keepdims=True), 1.0)


def balance_loss(routing: Routing, mask: Bool[Array, "b t"]) -> Scalar:
    """E sum_i f_i P_i of each sequence, averaged over the sequences; 1 when routing is uniform."""
    e = routing.probabilities.shape[-1]
    share = load(routing.experts, mask, num_experts=e)
    return jnp.mean(e * jnp.sum(share * _row_mean(routing.probabilities, mask), axis=-1))


def z_loss(logits: Float[Array, "b t e"], mask: Bool[Array, "b t"]) -> Scalar:
    """(logsumexp of the logits)^2, averaged over each sequence's real tokens, then over the sequences."""
    wide = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    return jnp.mean(_row_mean(jnp.square(jax.nn.logsumexp(wide, axis=-1, keepdims=True)), mask))


def balanced_bias(bias: Float[Array, "e"], share: Float[Array, "e"], *, rate: float) -> Float[Array, "e"]:
    """The next bias of loss-free balancing: up by `rate` for experts under the mean load, down for those above."""
    return bias + rate * jnp.sign(jnp.mean(share) - share)


def _row_mean(x: Float[Array, "b t e"], mask: Bool[Array, "b t"]) -> Float[Array, "b e"]:
    weight = mask[..., None].astype(x.dtype)
    return jnp.sum(x * weight, axis=1) / jnp.maximum(jnp.sum(weight, axis=1), 1.0)
