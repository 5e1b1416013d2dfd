"""Mixture of experts: a router sends each token to its top k gated perceptrons; no token is dropped.

    y = sum_{i in top k} w_i  W_down,i (act(W_gate,i x) * W_up,i x)

Shazeer et al., 2017, arXiv 1701.06538; Jiang et al., Mixtral of Experts, 2024, arXiv 2401.04088, sec. 2.1; without
capacity, as in Gale et al., MegaBlocks, 2022, arXiv 2211.15841. Losses, loss-free balancing: `arch.ops.routing.losses`.
"""

from collections.abc import Mapping
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

from arch import config
from arch.layers.contract import Aux, Context, Output, SublayerConfig
from arch.layers.flops import Flops, Row, multiply_adds
from arch.layers.weight import constant, normal, weight
from arch.ops.activation import ACTIVATIONS, Activation
from arch.ops.grouped_matmul import grouped_matmul
from arch.ops.routing import losses, statistics, top_k
from arch.sharding.mesh import platform
from arch.sharding.per_shard import per_shard
from arch.typing import Array, Bool, Float, Int


@config.frozen
class Config(SublayerConfig):
    """Dropless top-k mixture of experts.

    Attributes:
      num_experts: experts.
      top_k: experts a token.
      hidden_dim: hidden channels of each expert.
      activation: of the experts' gates.
      renormalize: the weights of a token's experts sum to one.
      balance_weight: factor of the balance loss.
      z_weight: factor of the router's z-loss.
      bias_rate: step of the loss-free balancing bias; 0 for none.
    """

    num_experts: config.PositiveInt
    top_k: config.PositiveInt
    hidden_dim: config.PositiveInt
    activation: Activation = "silu"
    renormalize: bool = True
    balance_weight: config.NonNegativeFloat = 0.01
    z_weight: config.NonNegativeFloat = 0.001
    bias_rate: config.NonNegativeFloat = 0.0

    def check(self):
        if self.top_k > self.num_experts:
            raise ValueError(f"top_k={self.top_k} must be at most num_experts={self.num_experts}")

    def make(self, name: str | None = None) -> "Moe":
        """The Linen module."""
        return Moe(self, name=name)

    def flops(self, row: Row) -> Flops:
        """The router, the top k experts of each token and their weighted sum; not the experts left aside."""
        an_expert = 3 * row.embed_dim * self.hidden_dim + row.embed_dim
        return multiply_adds(row.length * (row.embed_dim * self.num_experts + self.top_k * an_expert))

    def idle_parameters(self, embed_dim: int) -> int:
        """Those of all experts but k."""
        return (self.num_experts - self.top_k) * 3 * embed_dim * self.hidden_dim

    def update(self, buffers: Mapping, stats: Mapping) -> dict:
        """The next balancing bias, from the experts' loads."""
        bias = losses.balanced_bias(buffers["router_bias"], stats["expert_load"], rate=self.bias_rate)
        return dict(buffers) | {"router_bias": bias}


class Moe(nn.Module):
    """Routing in float32, then the experts' products on the tokens sorted by expert."""

    cfg: Config

    @nn.compact
    def __call__(self, x: Float[Array, "b t d"], context: Context, cache: None = None) -> Output:
        cfg, d, e = self.cfg, x.shape[-1], self.cfg.num_experts
        own = partial(weight, self, dtype=x.dtype)
        real = context.real()

        router = weight(self, "router", normal(d**-0.5), embed=d, experts=e)
        logits = jnp.einsum("btd,de->bte", x.astype(router.dtype), router)
        bias = None
        if cfg.bias_rate:
            bias = weight(self, "router_bias", constant(0.0), trainable=False, experts=e)
        routed = top_k.route(logits, real, k=cfg.top_k, renormalize=cfg.renormalize, bias=bias)

        gate = own("gate", normal(d**-0.5), experts=e, embed=d, hidden=cfg.hidden_dim)
        up = own("up", normal(d**-0.5), experts=e, embed=d, hidden=cfg.hidden_dim)
        down = own("down", normal(cfg.hidden_dim**-0.5), experts=e, hidden=cfg.hidden_dim, embed=d)
        rows = ("batch", None, None)
        out = per_shard(
            partial(apply_experts, activation=cfg.activation, platform=platform()),
            (x, routed.experts, routed.weights, routed.kept, gate, up, down),
            (rows, rows, rows, rows, (None, None, "hidden"), (None, None, "hidden"), (None, "hidden", None)),
            rows,
            reduce="hidden",
        )
        load = losses.counts(routed.experts, routed.kept, num_experts=e)
        raw = {
            "balance": losses.f_dot_p(load, losses.importance(routed.probabilities, real)),
            "router_z": losses.z_loss(logits, real),
        }
        weighted = {"balance": cfg.balance_weight * raw["balance"], "router_z": cfg.z_weight * raw["router_z"]}
        return Output(out, None, Aux(weighted, statistics.sums(routed, real) | jax.lax.stop_gradient(raw)))


def apply_experts(
    x: Float[Array, "b t d"],
    experts: Int[Array, "b t c"],
    weights: Float[Array, "b t c"],
    kept: Bool[Array, "b t c"],
    gate: Float[Array, "e d f"],
    up: Float[Array, "e d f"],
    down: Float[Array, "e f d"],
    *,
    activation: str,
    platform: str,
) -> Float[Array, "b t d"]:
    """The weighted sum of each token's experts; a pair that is not kept adds nothing and costs nothing.

    Args:
      x: [b t d] tokens.
      experts: [b t c] the experts of each token.
      weights: [b t c] their weights.
      kept: [b t c] which of them are computed.
      gate: [e d f], up: [e d f], down: [e f d] the experts' weights.
      activation: a key of ACTIVATIONS.
      platform: of the devices that run this ('cpu', 'gpu', 'tpu').
    """
    b, t, d = x.shape
    k, e = experts.shape[-1], gate.shape[0]
    expert = jnp.where(kept, experts, e).reshape(-1)
    order = jnp.argsort(expert)  # stable: a token's rows keep their place among equals
    sizes = jnp.bincount(expert, length=e + 1)[:e].astype(jnp.int32)
    product = partial(grouped_matmul, group_sizes=sizes, platform=platform)
    rows = x.reshape(-1, d)[order // k]
    hidden = ACTIVATIONS[activation](product(rows, gate)) * product(rows, up)
    out = product(hidden, down)[jnp.argsort(order)].reshape(b, t, k, d)
    return jnp.einsum("btkd,btk->btd", out, weights.astype(x.dtype))


EXAMPLES = (
    Config(num_experts=3, top_k=2, hidden_dim=7),
    Config(num_experts=5, top_k=1, hidden_dim=4, renormalize=False, bias_rate=0.01),
)
