"""Every dispatch gives the sum over pairs, its gradients too, whatever the skew; only a buffer too small loses any."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arch.ops import dispatch
from arch.ops.grouped_matmul import grouped_matmul
from arch.ops.routing import assignment, expert_choice, forced, soft, switch, top_k
from tests.contracts.sublayers import jit

B, T, E, D, F = 2, 7, 3, 4, 5
RNG = np.random.default_rng(0)
X, LOGITS = (jnp.asarray(RNG.standard_normal(shape), jnp.float32) for shape in ((B, T, D), (B, T, E)))
UP, DOWN = (jnp.asarray(RNG.standard_normal(shape), jnp.float32) for shape in ((E, D, F), (E, F, D)))
REAL = jnp.arange(T)[None] < jnp.asarray([7, 4])[:, None]
ROUTES = {
    "top_k": lambda logits: top_k.route(logits, REAL, k=2, renormalize=True),
    "dropped": lambda logits: switch.route(logits, REAL, capacity_factor=0.5),
    "one expert": lambda logits: forced.route(logits, REAL, experts=jnp.full((B, T, 1), 1), renormalize=False),
    "expert_choice": lambda logits: expert_choice.route(logits, REAL, capacity_factor=2.0),
}


def _run(route, way, x, logits, up, down, capacity=T):
    routing = route(logits)
    places = routing.experts.shape[-1] if isinstance(routing, assignment.TokenChoice) else 0
    experts = lambda rows, product, lay: product(jax.nn.silu(product(rows, up)), down)
    sizes = dict(num_experts=E, places=places)
    if way == "grouped":
        of_sorted = lambda rows, sizes, lay: experts(rows, partial(grouped_matmul, group_sizes=sizes), lay)
        return dispatch.grouped(x, assignment.pairs(routing), of_sorted, **sizes)
    if way == "gathered":
        return dispatch.gathered(x, assignment.pairs(routing), experts, capacity=capacity, **sizes)
    return dispatch.dense(x, assignment.dense(routing, tokens=T, num_experts=E, capacity=capacity), experts)


def _naive(routing):
    """[b t d] pair by pair, in float64."""
    pairs, out = assignment.pairs(routing), np.zeros((B, T, D))
    x, up, down = (np.asarray(array, float) for array in (X, UP, DOWN))
    for row, m in np.ndindex(*pairs.tokens.shape):
        if pairs.kept[row, m]:
            t, e = pairs.tokens[row, m], pairs.experts[row, m]
            hidden = x[row, t] @ up[e]
            out[row, t] += float(pairs.weights[row, m]) * ((hidden / (1 + np.exp(-hidden))) @ down[e])
    return out


@pytest.fixture(scope="module")
def results():
    """{route: {way: (output, gradients by x, logits, up, down)}}."""

    def both(route, way):
        loss = lambda *args: (lambda out: (jnp.sum(jnp.sin(out)), out))(_run(route, way, *args))
        (_, out), gradients = jax.value_and_grad(loss, argnums=(0, 1, 2, 3), has_aux=True)(X, LOGITS, UP, DOWN)
        return out, gradients

    ways = ("grouped", "gathered", "dense")
    return {name: jit(lambda: {way: both(route, way) for way in ways})() for name, route in ROUTES.items()}


@pytest.mark.parametrize("way", ["grouped", "gathered", "dense"])
@pytest.mark.parametrize("name", ROUTES)
def test_each_way_is_the_sum_over_pairs(results, name, way):
    np.testing.assert_allclose(results[name][way][0], _naive(ROUTES[name](LOGITS)), atol=2e-5)


@pytest.mark.parametrize("way", ["gathered", "dense"])
@pytest.mark.parametrize("name", ROUTES)
def test_gradients_are_the_same_by_each_way(results, name, way):
    for expected, actual in zip(results[name]["grouped"][1], results[name][way][1], strict=True):
        assert np.isfinite(actual).all() and np.any(actual != 0)
        np.testing.assert_allclose(actual, expected, atol=2e-5)


def test_all_tokens_on_one_expert_are_all_computed(results):
    """Dropless is dropless: each real token has its expert's output, and only that expert's weights have a gradient."""
    out, (_, _, up, _) = results["one expert"]["grouped"]
    np.testing.assert_array_equal(np.any(np.asarray(out) != 0, axis=-1), REAL)
    assert [bool(np.any(up[e] != 0)) for e in range(E)] == [False, True, False]


def test_padding_gets_zeros(results):
    for ways in results.values():
        for out, _ in ways.values():
            assert not np.any(np.asarray(out)[~np.asarray(REAL)])


@pytest.mark.parametrize("way", ["gathered", "dense"])
def test_a_buffer_too_small_loses_the_last_pairs(way):
    out = jit(lambda: _run(ROUTES["one expert"], way, X, LOGITS, UP, DOWN, capacity=3))()
    found = np.any(np.asarray(out) != 0, axis=-1)
    np.testing.assert_array_equal(found, np.broadcast_to(np.arange(T) < 3, (B, T)))


def test_soft_mixtures_go_through_the_experts_as_they_are():
    logits = jnp.asarray(np.random.default_rng(1).standard_normal((B, T, E, 2)), jnp.float32)
    routing = soft.route(logits, REAL)
    experts = lambda rows, product, lay: product(jnp.tanh(product(rows, UP)), DOWN)
    out = jit(lambda: dispatch.dense(X, routing, experts))()
    expected = np.zeros((B, T, D))
    for row, e, c in np.ndindex(B, E, 2):
        mixed = np.asarray(routing.dispatch[row, :, e, c]) @ np.asarray(X[row])
        expected[row] += np.outer(routing.combine[row, :, e, c], np.tanh(mixed @ UP[e]) @ DOWN[e])
    np.testing.assert_allclose(out, expected, atol=2e-5)
