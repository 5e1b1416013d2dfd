"""What a router decides: which token goes to which expert, and with what weight.

    y_t = sum over pairs (t, e) of w_te f_e(x_t)               TokenChoice and ExpertChoice
    y_t = sum_{e c} C_tec f_e(sum_s D_sec x_s)                  SoftChoice

TokenChoice is written by token, ExpertChoice by expert. `pairs` gives both the same form, a list of (token, expert)
pairs that a sort reads; `dense` gives all three the form of SoftChoice, the dispatch and combine tensors of Lepikhin
et al., GShard, 2020, arXiv 2006.16668, sec. 2.2, that an einsum reads.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jax.tree_util import register_dataclass

from arch.typing import Array, Bool, Float, Int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Choice:
    """What TokenChoice and ExpertChoice have in common: n owners, tokens or experts, of c places each.

    Attributes:
      weights: [b n c] float32 factors of the experts' outputs, 0 where not kept.
      probabilities: [b t e] float32 the router's scores of all experts, which sum to one; balance losses read them.
      kept: [b n c] False where the pair is not computed: dropped, not needed, or of a token that is padding.
      losses: what this router's paper adds to the objective beside the common losses, not yet weighted.
    """

    weights: Float[Array, "b n c"]
    probabilities: Float[Array, "b t e"]
    kept: Bool[Array, "b n c"]
    losses: dict[str, Array] = dataclasses.field(default_factory=dict)


@register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenChoice(Choice):
    """Each token has c places, and an expert in each.

    Attributes:
      experts: [b t c] the experts of each token, best first; ties go to the lower number.
      asked: [b t c] the experts that the router wanted before any pair was dropped because its expert is full, -1 for
        none.
    """

    experts: Int[Array, "b t c"]
    asked: Int[Array, "b t c"]


@register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class ExpertChoice(Choice):
    """Each expert has c places, and a token in each.

    Attributes:
      tokens: [b e c] the tokens of each expert, best first.
    """

    tokens: Int[Array, "b e c"]


@register_dataclass
@dataclasses.dataclass(frozen=True)
class SoftChoice:
    """Each expert has c places, and a mixture of tokens in each.

    Attributes:
      dispatch: [b t e c] float32 the share of each token in each place.
      combine: [b t e c] float32 the share of each place's output in each token's.
    """

    dispatch: Float[Array, "b t e c"]
    combine: Float[Array, "b t e c"]

    @property
    def probabilities(self) -> Float[Array, "b t e"]:
        """How much of a token's output each expert makes; padding has zeros."""
        return jnp.sum(self.combine, axis=-1)

    @property
    def losses(self) -> dict[str, Array]:
        """None: nothing is unbalanced."""
        return {}


Routing = Choice | SoftChoice


@register_dataclass
@dataclasses.dataclass(frozen=True)
class Pairs:
    """A list of m (token, expert) pairs in each row.

    Attributes:
      tokens: [b m].
      experts: [b m].
      weights: [b m] float32, 0 where not kept.
      kept: [b m].
    """

    tokens: Int[Array, "b m"]
    experts: Int[Array, "b m"]
    weights: Float[Array, "b m"]
    kept: Bool[Array, "b m"]


def pairs(routing: Choice) -> Pairs:
    """The pairs, those of one token (or, for ExpertChoice, of one expert) side by side."""
    first = routing.experts if isinstance(routing, TokenChoice) else routing.tokens
    owner = jnp.broadcast_to(jnp.arange(first.shape[1])[:, None], first.shape)
    by_token = isinstance(routing, TokenChoice)
    tokens, experts = (owner, first) if by_token else (first, owner)
    flat = lambda leaf: leaf.reshape(leaf.shape[0], -1)
    return Pairs(flat(tokens), flat(experts), flat(routing.weights), flat(routing.kept))


def places(experts: Int[Array, "b m"], kept: Bool[Array, "b m"], *, num_experts: int) -> Int[Array, "b m"]:
    """[b m] how many kept pairs of the same expert and row stand before each pair."""
    one_hot = jax.nn.one_hot(experts, num_experts, dtype=jnp.int32) * kept[..., None]
    before = jnp.cumsum(one_hot, axis=1) - one_hot
    return jnp.take_along_axis(before, experts[..., None], axis=-1)[..., 0]


def dense(routing: Routing | Pairs, *, tokens: int, num_experts: int, capacity: int) -> SoftChoice:
    """The dispatch and combine tensors, b t e c numbers each: a reference, not for long rows.

    Args:
      routing: of any class, or its pairs; a SoftChoice comes back as it is.
      tokens: t.
      num_experts: e.
      capacity: c, places an expert; a kept pair that finds none is lost, so at least the largest load.
    """
    if isinstance(routing, SoftChoice):
        return routing
    pair = routing if isinstance(routing, Pairs) else pairs(routing)
    place = places(pair.experts, pair.kept, num_experts=num_experts)
    by_token = jax.nn.one_hot(pair.tokens, tokens, dtype=jnp.float32)
    by_expert = jax.nn.one_hot(pair.experts, num_experts, dtype=jnp.float32) * pair.kept[..., None]
    by_place = jax.nn.one_hot(place, capacity, dtype=jnp.float32)
    dispatch = jnp.einsum("bmt,bme,bmc->btec", by_token, by_expert, by_place)
    combine = jnp.einsum("bmt,bme,bmc,bm->btec", by_token, by_expert, by_place, pair.weights)
    return SoftChoice(dispatch, combine)
