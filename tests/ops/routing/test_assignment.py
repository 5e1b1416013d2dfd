"""The forms in which a dispatch reads a routing say the same: by token, by expert, as pairs, dense."""

import jax.numpy as jnp
import numpy as np
import pytest

from arch.ops.routing import assignment, expert_choice, soft, switch, top_k
from tests.contracts.sublayers import jit
from tests.ops.routing.draws import cases, held_to, make

ROUTES = {
    "top_k": lambda logits, real: top_k.route(logits, real, k=2),
    "switch": lambda logits, real: switch.route(logits, real, capacity_factor=1.0),
    "expert_choice": lambda logits, real: expert_choice.route(logits, real, capacity_factor=2.0),
}


def _forms(route):
    def both(logits, real):
        routing = route(logits, real)
        sizes = dict(tokens=logits.shape[1], num_experts=logits.shape[2], capacity=logits.shape[1])
        return routing, assignment.pairs(routing), assignment.dense(routing, **sizes)

    return jit(both)


FORMS = {name: _forms(route) for name, route in ROUTES.items()}


def _by_hand(routing, shape):
    """[b t e] the weight and whether it is kept, from the routing's own fields."""
    weight, kept = np.zeros(shape), np.zeros(shape, bool)
    by_token = isinstance(routing, assignment.TokenChoice)
    first = np.asarray(routing.experts if by_token else routing.tokens)
    for row, owner, place in np.ndindex(*first.shape):
        at = (row, owner, first[row, owner, place]) if by_token else (row, first[row, owner, place], owner)
        if routing.kept[row, owner, place]:
            weight[at], kept[at] = routing.weights[row, owner, place], True
    return weight, kept


@pytest.mark.parametrize("name", ROUTES)
def test_pairs_and_dense_tensors_say_what_the_routing_says(name):
    @held_to(cases(((2, 11, 5),)), examples=15)
    def holds(case):
        routing, pairs, dense = FORMS[name](jnp.asarray(case.logits), jnp.asarray(case.real))
        weight, kept = _by_hand(routing, case.logits.shape)
        np.testing.assert_array_equal(np.sum(dense.dispatch, axis=-1), kept)
        np.testing.assert_allclose(np.sum(dense.combine, axis=-1), weight, atol=1e-7)
        assert np.max(np.sum(dense.dispatch, axis=1)) <= 1  # one token a place
        listed = np.zeros(case.logits.shape)
        for row, m in np.ndindex(*pairs.tokens.shape):
            listed[row, pairs.tokens[row, m], pairs.experts[row, m]] += pairs.kept[row, m]
        np.testing.assert_array_equal(listed, kept)

    holds()


def test_places_count_the_kept_pairs_of_the_same_expert_before():
    experts = jnp.asarray([[1, 0, 1, 1, 0, 1]])
    kept = jnp.asarray([[True, True, False, True, True, True]])
    places = np.asarray(assignment.places(experts, kept, num_experts=2))
    np.testing.assert_array_equal(places[0][np.asarray(kept[0])], [0, 0, 1, 1, 2])


def test_a_soft_choice_is_dense_already():
    case = make("normal", (2, 5, 3, 2))
    routing = soft.route(jnp.asarray(case.logits), jnp.asarray(case.real))
    assert assignment.dense(routing, tokens=5, num_experts=3, capacity=2) is routing
