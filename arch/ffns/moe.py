"""Mixture of experts: a router sends each token to k gated perceptrons; what it keeps is computed, whatever the load.

    y = sum_{i chosen} w_i  W_down,i (act(W_gate,i x) * W_up,i x)  (+ the shared expert of x, times sigmoid(u . x))

without gates W_down,i act(W_up,i x) (Switch, GShard).

Shazeer et al., 2017, arXiv 1701.06538; Jiang et al., Mixtral of Experts, 2024, arXiv 2401.04088, sec. 2.1; without
capacity, as in Gale et al., MegaBlocks, 2022, arXiv 2211.15841; shared expert: Dai et al., DeepSeekMoE, 2024, arXiv
2401.06066, eq. 9-11. Routers: `arch/routers`; losses and loss-free balancing: `arch.ops.routing.losses`.
"""

import dataclasses
from collections.abc import Mapping
from functools import partial
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from arch import config
from arch.ffns import gated_mlp, mlp
from arch.ffns._experts import Dispatch, How, Matmul, apply_experts
from arch.layers.contract import Aux, Context, Output, SublayerConfig
from arch.layers.flops import Flops, Row, multiply_adds
from arch.layers.weight import constant, normal, weight
from arch.ops.activation import Activation
from arch.ops.dropout import dropout
from arch.ops.routing import assignment, losses, replay, statistics
from arch.routers import sigmoid, switch, top_k
from arch.routers._router import Demand
from arch.sharding.mesh import device_kind
from arch.sharding.per_shard import per_shard
from arch.typing import Array, Float


@config.frozen
class Config(SublayerConfig):
    """Mixture of experts.

    Attributes:
      num_experts: experts.
      top_k: experts a token.
      router: which ones.
      hidden_dim: hidden channels of each expert.
      shared_dim: hidden channels of an expert that every token has besides; 0 for none.
      shared_gate: that expert's result is multiplied by the sigmoid of a projection of the token (Qwen2-MoE).
      activation: of the experts' gates, or of their hidden channels where they have none.
      gated: the experts have gates.
      renormalize: the weights of a token's experts sum to one.
      balance_loss: which one, see `arch.ops.routing.losses`.
      balance_weight: its factor.
      balance_over: the mean over the rows of each one's loss, or the loss of all rows together, which lets a row of one
        kind of text use few experts (global-batch balance). With micro-batches it is of each one's rows, then the mean.
      z_weight: factor of the router's z-loss.
      bias_rate: step of the loss-free balancing bias; 0 for none.
      expert_dropout: probability of zeroing an entry of an expert's hidden layer (Switch, in fine-tuning: 0.4).
      dispatch: how tokens come to experts and back, see `arch.ops.dispatch`; the values are the same.
      chunk_tokens: tokens of a row dispatched at a time, to save memory at no change of value; 0 for all of them.
      round_factor: where other devices have some of the experts, how many rows go to each device at a time, in units of
        an even load; rounds go on until all are sent. 0 for one, with places for any load. The value is the same; it
        takes less memory, and hidden layers are computed again for the gradient (`arch.sharding.rounds`).
      matmul: what multiplies the rows of each expert with dispatch='grouped', see `arch.kernels.grouped_matmul.choice`;
        '' for the best on the devices.
    """

    num_experts: config.PositiveInt
    top_k: config.PositiveInt
    hidden_dim: config.PositiveInt
    router: config.choice("routers") = top_k.Config()
    shared_dim: config.SizeOrZero = 0
    shared_gate: bool = False
    activation: Activation = "silu"
    gated: bool = True
    renormalize: bool = True
    balance_loss: Literal["f_dot_p", "cv_squared", "sum_of_squares", "variance"] = "f_dot_p"
    balance_weight: config.NonNegativeFloat = 0.01
    balance_over: Literal["row", "batch"] = "row"
    z_weight: config.NonNegativeFloat = 0.001
    bias_rate: config.NonNegativeFloat = 0.0
    expert_dropout: config.Fraction = 0.0
    dispatch: Dispatch = "grouped"
    chunk_tokens: config.SizeOrZero = 0
    round_factor: config.NonNegativeFloat = 0.0
    matmul: Matmul = ""

    def check(self):
        if self.top_k > self.num_experts:
            raise ValueError(f"top_k={self.top_k} must be at most num_experts={self.num_experts}")
        name = self.router.label
        if self.bias_rate and not self.router.biased:
            raise ValueError(f"bias_rate={self.bias_rate} must be 0 with router={name!r}, which heeds no bias")
        if not self.renormalize and not self.router.unnormalized:
            raise ValueError(f"renormalize=False must be True with router={name!r}, whose weights sum to one")
        if not self.router.matrices and (self.balance_weight or self.z_weight):
            found = f"balance_weight={self.balance_weight} and z_weight={self.z_weight}"
            raise ValueError(f"{found} must be 0 with router={name!r}, which they could not reach")
        if self.router.balances and self.balance_weight and self.balance_loss == "f_dot_p":
            found = f"balance_weight={self.balance_weight} must be 0 with balance_loss='f_dot_p'"
            raise ValueError(f"{found} and router={name!r}, always balanced")
        if self.router.mixes and self.dispatch != "dense":
            raise ValueError(f"dispatch={self.dispatch!r} must be 'dense' with router={name!r}, which mixes tokens")
        if self.router.mixes and (self.balance_weight or self.z_weight):
            found = f"balance_weight={self.balance_weight} and z_weight={self.z_weight}"
            raise ValueError(f"{found} must be 0 with router={name!r}, which has nothing to balance")
        if self.shared_gate and not self.shared_dim:
            raise ValueError("shared_dim=0 must be positive with shared_gate=True")
        if self.expert_dropout and self.dispatch == "dense":
            raise ValueError(f"expert_dropout={self.expert_dropout} must be 0 with dispatch='dense'")
        if self.chunk_tokens and (self.dispatch != "grouped" or self.router.by_expert):
            found = f"dispatch={self.dispatch!r} and router={name!r}"
            raise ValueError(f"chunk_tokens={self.chunk_tokens} must be 0 with {found}: it splits tokens' choices")
        if self.round_factor and (self.dispatch != "grouped" or self.chunk_tokens):
            found = f"dispatch={self.dispatch!r} and chunk_tokens={self.chunk_tokens}"
            raise ValueError(f"round_factor={self.round_factor} must be 0 with {found}")
        if self.matmul and self.dispatch != "grouped":
            raise ValueError(f"matmul={self.matmul!r} must be '' with dispatch={self.dispatch!r}")
        self.router.must_suit(self.demand)

    @property
    def demand(self) -> Demand:
        """What the layer says to its router, without the bias."""
        return Demand(self.num_experts, self.top_k, self.renormalize)

    @property
    def balancing(self) -> tuple[str, ...]:
        """The names of the losses that keep the load even, or the choice sharp: those whose weight is not 0."""
        weights = {"balance": self.balance_weight} | self.router.loss_weights
        return tuple(name for name, value in weights.items() if value)

    @property
    def shared(self) -> gated_mlp.Config | mlp.Config:
        """The shared expert, where there is one."""
        return (gated_mlp if self.gated else mlp).Config(hidden_dim=self.shared_dim, activation=self.activation)

    @property
    def matrices(self) -> int:
        """How many an expert has."""
        return 3 if self.gated else 2

    def lacks(self) -> tuple[str, ...]:
        """What the router lacks."""
        return self._lacks(training=False)

    def lacks_in_training(self) -> tuple[str, ...]:
        """What the router lacks there: an assignment of whole rows, or less room."""
        return self._lacks(training=True)

    def _lacks(self, *, training: bool) -> tuple[str, ...]:
        """A router that gives tokens to experts, or mixes them, wants all tokens of a row in one place."""
        whole = ("context",) if self.router.by_expert or self.router.mixes else ()
        return self.router.lacks(self.demand, training=training) + whole

    def make(self, name: str | None = None) -> "Moe":
        """The Linen module."""
        return Moe(self, name=name)

    def flops(self, row: Row) -> Flops:
        """The router, the experts of each token, their weighted sum, the shared expert; none left aside.

        What is executed is that of the dispatch 'grouped': the others fill whole capacities.
        """
        an_expert = self.matrices * row.embed_dim * self.hidden_dim + row.embed_dim
        router = self.router.matrices * row.embed_dim * self.num_experts
        chosen = multiply_adds(round(row.length * (router + self.router.experts_a_token(self.demand) * an_expert)))
        return chosen + self.shared.flops(row) if self.shared_dim else chosen

    def idle_parameters(self, embed_dim: int) -> int:
        """Those of all experts but k."""
        return (self.num_experts - self.top_k) * self.matrices * embed_dim * self.hidden_dim

    def update(self, buffers: Mapping, stats: Mapping) -> dict:
        """The next balancing bias, from the loads that the router asked for: a full expert is above its share, too."""
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

        key, demand = None if context.deterministic else context.key, cfg.demand
        logits = cfg.router.logits(partial(weight, self), x, key, demand)
        if cfg.bias_rate:
            bias = weight(self, "router_bias", constant(0.0), trainable=False, experts=e)
            demand = dataclasses.replace(demand, bias=bias)
        routed = cfg.router.route(partial(weight, self), logits, x, context, key, demand)

        names = ("gate", "up") if cfg.gated else ("up",)
        into = tuple(own(name, normal(d**-0.5), experts=e, embed=d, hidden=cfg.hidden_dim) for name in names)
        down = own("down", normal(cfg.hidden_dim**-0.5), experts=e, hidden=cfg.hidden_dim, embed=d)
        how = How(
            way=cfg.dispatch,
            num_experts=e,
            places=routed.experts.shape[-1] if isinstance(routed, assignment.TokenChoice) else 0,
            capacity=cfg.router.capacity(x.shape[1], demand, context.deterministic),
            activation=cfg.activation,
            device_kind=device_kind(),
            matmul=cfg.matmul,
            chunk=cfg.chunk_tokens,
            round_factor=cfg.round_factor,
        )
        soft, factors = isinstance(routed, assignment.SoftChoice), None
        pairs = routed if soft else assignment.pairs(routed)
        if cfg.expert_dropout and key is not None:
            ones = jnp.ones((*pairs.tokens.shape, cfg.hidden_dim), x.dtype)
            factors = dropout(ones, jax.random.fold_in(key, 3), rate=cfg.expert_dropout)
        along = None if soft or cfg.router.by_expert else "sequence"
        rows, inner, outer = ("batch", along, None), ("experts", None, "hidden"), ("experts", "hidden", None)
        arguments = (x, pairs, into, down, factors)
        of_pairs = ("batch", None, None, None) if soft else ("batch", along)
        axes = (rows, of_pairs, inner, outer, ("batch", along, "hidden"))
        out = per_shard(partial(apply_experts, how=how), arguments, axes, rows, reduce="hidden")
        if cfg.shared_dim:
            shared = cfg.shared.make("shared")(x, context).x
            if cfg.shared_gate:
                shared *= jax.nn.sigmoid(x @ own("shared_gate", normal(d**-0.5), embed=d))[..., None]
            out += shared

        load, share = cfg.router.load(routed, real), losses.importance(routed.probabilities, real)
        if cfg.balance_over == "batch":
            load, share = losses.pool(load), losses.pool(share)
        raw = {
            "balance": losses.BALANCE[cfg.balance_loss](load, share),
            "router_z": losses.z_loss(logits, real),
        } | routed.losses
        factors = {"balance": cfg.balance_weight, "router_z": cfg.z_weight} | cfg.router.loss_weights
        weighted = {name: factors[name] * loss for name, loss in raw.items()}
        stats = statistics.sums(routed, real) | jax.lax.stop_gradient(raw)
        if context.watched is not None and not soft:
            stats |= statistics.tables(routed, real, context.tokens, context.watched)
        if context.recording and not soft:
            stats |= dict(zip(replay.RECORDED, replay.recorded(routed)))
        return Output(out, None, Aux(weighted, stats))


_DROPPING = switch.Config(eval_capacity_factor=1.0)
_GROUPED = sigmoid.Config(num_groups=3, top_groups=2, scale=2.5)
EXAMPLES = (
    Config(num_experts=3, top_k=2, hidden_dim=7),
    Config(num_experts=6, top_k=2, hidden_dim=3, shared_dim=5, shared_gate=True, router=_GROUPED, bias_rate=0.01),
    Config(num_experts=3, top_k=1, hidden_dim=5, gated=False, renormalize=False, router=_DROPPING),
)
