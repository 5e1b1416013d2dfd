"""What is recorded of any routing, given back, is that routing; and the weights are whose they should be."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st

from arch.ops.routing import assignment, expert_choice, forced, gshard, replay, switch, threshold, top_k
from tests.contracts.sublayers import jit
from tests.ops.routing.draws import assert_pairs, call, cases, held_to, make

ROUTES = {
    "top_k": lambda *args: top_k.route(*args, k=2, renormalize=True),
    "threshold": lambda *args: threshold.route(*args, threshold=0.5, k=3),
    "switch": lambda *args: switch.route(*args, capacity_factor=1.0),
    "gshard": lambda *args: gshard.route(*args, capacity_factor=0.5),
    "expert_choice": lambda *args: expert_choice.route(*args, capacity_factor=2.0),
}


def _by_expert(routing):
    """[b t e] the weight of each expert in each token, and whether it is computed."""
    pair, row = assignment.pairs(routing), jnp.arange(routing.weights.shape[0])[:, None]
    weights = jnp.zeros(routing.probabilities.shape).at[row, pair.tokens, pair.experts].add(pair.weights)
    return weights, jnp.zeros(weights.shape, bool).at[row, pair.tokens, pair.experts].max(pair.kept)


@jit
def _again(logits, real, other):
    """Of each router its routing, and that of other logits with the first one's record."""
    out = {}
    for name, route in ROUTES.items():
        first = route(logits, real)
        experts, weights = replay.recorded(first)
        given = replay.route(other, real, experts=experts, weights=weights)
        out[name] = _by_expert(first), _by_expert(given), (given.asked == -1) == ~given.kept
    return out


@held_to(cases(), st.integers(0, 9), examples=20)
def test_a_record_of_any_router_given_back_is_its_routing(case, seed):
    other = make("normal", seed=seed).logits
    for name, (first, given, asked) in _again(*map(jnp.asarray, (case.logits, case.real, other))).items():
        np.testing.assert_array_equal(first, given, err_msg=name)
        assert np.all(asked), name


def check_replay(route, case, seed):
    """The experts given, without the missing ones, with this router's weights divided by their sum."""
    rng = np.random.default_rng(seed)
    experts = np.argsort(rng.random(case.logits.shape), axis=-1)[..., :3]
    experts = np.where(rng.random(experts.shape) < 0.4, -1, experts)
    expected = []
    for row, _, ps in case.rows():
        chosen = [[i for i in experts[row, t] if i >= 0] for t in range(len(ps))]
        expected.append([{i: p[i] / sum(p[j] for j in own) for i in own} for p, own in zip(ps, chosen)])
    assert_pairs(call(route, case, dict(experts=experts)), expected)


@held_to(cases(), st.integers(0, 99))
def test_without_recorded_weights_they_are_the_router_s_at_the_experts_given(case, seed):
    check_replay(replay.route, case, seed)


NOT_REPLAYED = {
    "the router's own choice": lambda logits, real, *, experts: top_k.route(logits, real, k=3, renormalize=True),
    "an expert for none": lambda logits, real, *, experts: forced.route(logits, real, experts=jnp.maximum(experts, 0)),
    "undivided weights": lambda *args, **experts: replay.route(*args, **experts, renormalize=False),
    "another row's": lambda *args, experts: replay.route(*args, experts=experts[::-1]),
}


@pytest.mark.parametrize("wrong", NOT_REPLAYED)
def test_the_check_sees(wrong):
    with pytest.raises(AssertionError):
        check_replay(NOT_REPLAYED[wrong], make("normal"), 0)


def test_the_router_has_a_gradient_unless_the_weights_are_recorded():
    case = make("normal")
    experts, weights = replay.recorded(top_k.route(jnp.asarray(case.logits), jnp.asarray(case.real), k=2))

    def gate(logits, given):
        return jnp.sum(replay.route(logits, jnp.asarray(case.real), experts=experts, weights=given).weights ** 2)

    own, recorded = (jit(jax.grad(gate))(jnp.asarray(case.logits), given) for given in (None, weights))
    assert np.all(np.any(np.asarray(own) != 0, axis=-1)) and not np.any(recorded)
