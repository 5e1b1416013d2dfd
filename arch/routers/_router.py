"""Base of the routers' configs, and what a mixture of experts asks of its router."""

import dataclasses
from collections.abc import Callable
from typing import ClassVar

import jax
import jax.numpy as jnp

from arch import config
from arch.layers.contract import Context
from arch.layers.weight import normal
from arch.ops.routing import losses, noise
from arch.ops.routing.assignment import Choice, Routing, pairs
from arch.typing import Array, Bool, Float, Key


@dataclasses.dataclass(frozen=True)
class Demand:
    """What the layer says to its router.

    Attributes:
      num_experts: e.
      k: experts a token.
      renormalize: whether a token's weights are divided by their sum.
      bias: [e] the balancing bias, None for none.
    """

    num_experts: int
    k: int
    renormalize: bool = True
    bias: Float[Array, "e"] | None = None


@config.frozen
class Router(config.Config):
    """A router: logits, then a routing of them. Override `route`, and what else differs.

    What is random about it happens in training alone.

    Attributes:
      jitter: what the router reads is multiplied by uniform numbers from 1 - jitter to 1 + jitter (Switch: 0.01).
      drop_experts: probability with which a row goes without an expert, though never with fewer than k.
    """

    jitter: config.Fraction = 0.0
    drop_experts: config.Fraction = 0.0

    matrices: ClassVar[int] = 1
    """How many matrices [d e] make its scores; without any, a balance or z-loss has nothing to reach."""
    unnormalized: ClassVar[bool] = False
    """Whether it can leave weights undivided."""
    biased: ClassVar[bool] = False
    """Whether it heeds a balancing bias."""
    balances: ClassVar[bool] = False
    """Whether the load is even whatever the logits are, so that f.P is constant: its gradient goes through P alone."""

    by_expert: ClassVar[bool] = False
    """Whether experts choose their tokens, and not tokens their experts."""

    mixes: ClassVar[bool] = False
    """Whether its routings are mixtures of tokens, which one dispatch takes and no balance or z-loss."""

    @property
    def label(self) -> str:
        """The file's name, by which it is chosen."""
        return type(self).__module__.rsplit(".", 1)[-1]

    @property
    def loss_weights(self) -> dict[str, float]:
        """The factors of the losses of its own, by name."""
        return {}

    def must_suit(self, demand: Demand) -> None:
        """Raises ValueError on a layer that the router cannot serve."""

    def lacks(self, demand: Demand, *, training: bool) -> tuple[str, ...]:
        """The traits of the contract that the layer lacks because of the router, in training or in evaluation."""
        return ()

    def logits(
        self, own: Callable, x: Float[Array, "b t d"], key: Key[Array, ""] | None, demand: Demand
    ) -> Float[Array, "b t e"]:
        """x W, in float32, of jittered x and with experts dropped where there is a key.

        Args:
          own: declares weights among the layer's.
          x: what the layer reads.
          key: None in evaluation.
          demand: of the layer.
        """
        weight = own("router", self.start(x.shape[-1]), embed=x.shape[-1], experts=demand.num_experts)
        read = noise.jitter(x.astype(weight.dtype), fold(key, 0), epsilon=self.jitter)
        logits = jnp.einsum("btd,de->bte", read, weight, precision=jax.lax.Precision.HIGHEST)
        return noise.drop_experts(logits, fold(key, 1), rate=self.drop_experts, at_least=demand.k)

    def start(self, embed_dim: int) -> Callable:
        """The initialiser of `router`."""
        return normal(embed_dim**-0.5)

    def route(
        self,
        own: Callable,
        logits: Float[Array, "b t e"],
        x: Float[Array, "b t d"],
        context: Context,
        key: Key[Array, ""] | None,
        demand: Demand,
    ) -> Routing:
        """The routing of `logits`."""
        raise NotImplementedError

    def experts_a_token(self, demand: Demand) -> float:
        """How many experts a token has on average when none is dropped. Raises UnknownFlops if that is not fixed."""
        return demand.k

    def capacity(self, tokens: int, demand: Demand, deterministic: bool) -> int:
        """The most pairs that an expert can have in a row of so many tokens."""
        return tokens

    def load(self, routing: Choice, real: Bool[Array, "b t"]) -> Float[Array, "b e"]:
        """[b e] the assignments that the balance loss counts: all those that are computed."""
        pair, e = pairs(routing), routing.probabilities.shape[-1]
        return losses.counts(pair.experts[..., None], pair.kept[..., None], num_experts=e)


WHOLE_ROW = ("causal", "segments", "cache")
"""What a layer lacks whose router looks at all of a row before it decides."""


def fold(key: Key[Array, ""] | None, number: int) -> Key[Array, ""] | None:
    """Another key for each number, or none at all."""
    return None if key is None else jax.random.fold_in(key, number)


def one_undivided(router: Router, demand: Demand) -> None:
    """Raises ValueError unless a token has one expert, with a weight that is not divided by itself."""
    if demand.k != 1 or demand.renormalize:
        found = f"top_k={demand.k} and renormalize={demand.renormalize}"
        raise ValueError(f"{found} must be 1 and False with router={router.label!r}")


def gate_lives(router: Router, demand: Demand) -> None:
    """Raises ValueError where a token's only weight is divided by itself: it is 1, and teaches the router nothing."""
    if demand.k == 1 and demand.renormalize:
        found = f"renormalize=True must be False with top_k=1 and router={router.label!r}"
        raise ValueError(f"{found}: divided by itself it has no gradient")


def all_there(router: Router) -> None:
    """Raises ValueError on dropped experts, where balance would send tokens to them, which then have a weight of 0."""
    if router.drop_experts:
        found = f"drop_experts={router.drop_experts} must be 0 with router={router.label!r}"
        raise ValueError(f"{found}, which uses every expert")
