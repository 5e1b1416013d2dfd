"""What holds of every router's choice, whatever the logits, ties, skew, dropped experts, empty experts and padding."""

import functools
import math
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st

from arch.ops.routing import (
    assignment,
    base,
    expert_choice,
    forced,
    gshard,
    hashed,
    noisy_top_k,
    scores,
    sigmoid,
    sinkhorn,
    statistics,
    switch,
    threshold,
    top_k,
)
from tests.contracts.sublayers import jit
from tests.ops.routing.draws import cases, held_to, make

POSITIONS = lambda real: jnp.broadcast_to(jnp.arange(real.shape[1]), real.shape)
ROUTES = {
    "top_k": lambda x, real, key: top_k.route(x, real, k=2, renormalize=True),
    "softmax of the chosen": lambda x, real, key: top_k.route(x, real, k=2, order="select_then_softmax"),
    "sigmoid": lambda x, real, key: sigmoid.route(x, real, k=2, scale=1.0, renormalize=True),
    "noisy_top_k": lambda x, real, key: noisy_top_k.route(x, real, k=1, noise=x, key=key),
    "threshold": lambda x, real, key: threshold.route(x, real, threshold=0.7, k=2),
    "switch": lambda x, real, key: switch.route(x, real, capacity_factor=1.25),
    "switch, batch": lambda x, real, key: switch.route(x, real, capacity_factor=0.5, priority="batch"),
    "switch, stages": lambda x, real, key: switch.route(x, real, capacity_factor=1.0, stages=2),
    "gshard": lambda x, real, key: gshard.route(x, real, capacity_factor=1.0, key=key),
    "base": lambda x, real, key: base.route(x, real, balanced=True),
    "sinkhorn": lambda x, real, key: sinkhorn.route(x, real, balanced=True),
    "expert_choice": lambda x, real, key: expert_choice.route(x, real, capacity_factor=1.0),
    "hashed": lambda x, real, key: hashed.route(
        POSITIONS(real), real, table=jnp.asarray(hashed.random_table(7, num_experts=x.shape[-1], k=2)),
        num_experts=x.shape[-1]),
    "forced": lambda x, real, key: forced.route(
        x, real, experts=forced.skewed(POSITIONS(real), num_experts=x.shape[-1], k=2, share=0.7)),
}  # fmt: skip
LIMITED = {"switch": 1.25, "switch, batch": 0.5, "switch, stages": 1.0, "gshard": 2.0, "base": 1.0}
LIMITED["expert_choice"] = 1.0
"""How many times n / E tokens an expert has at most."""
SUMS_TO_ONE = {"top_k", "softmax of the chosen", "sigmoid", "noisy_top_k", "hashed", "forced"}
DROPS = {"switch", "switch, batch", "switch, stages", "gshard"}


@functools.cache
def compiled(name):
    """The router's choice as ({field: pairs'}, probabilities, statistics)."""

    def of(logits, real, seed):
        routing = ROUTES[name](logits, real, jax.random.key(seed))
        return vars(assignment.pairs(routing)), routing.probabilities, statistics.sums(routing, real)

    return jit(of)


def check(name, case, seed):
    """Counted pair by pair."""
    logits, real = case.logits, case.real
    found = compiled(name)(jnp.asarray(logits), jnp.asarray(real), seed)
    pairs, probabilities, sums = jax.tree.map(np.asarray, found)
    pairs, (rows, _, e) = types.SimpleNamespace(**pairs), logits.shape
    assert np.all(np.isfinite(pairs.weights)) and np.all(pairs.weights >= 0)
    assert np.all(pairs.weights[~pairs.kept] == 0)
    weights, held = np.zeros(logits.shape), np.zeros(logits.shape)
    for row, m in zip(*np.nonzero(pairs.kept)):
        held[row, pairs.tokens[row, m], pairs.experts[row, m]] += 1
        weights[row, pairs.tokens[row, m], pairs.experts[row, m]] += pairs.weights[row, m]
    assert held.max(initial=0) <= 1, "an expert twice"
    assert not np.any(held[~real]), "an expert of padding"
    np.testing.assert_allclose(probabilities[real].sum(-1), 1, rtol=1e-5)
    for row, n in enumerate(case.lengths):
        load = held[row].sum(0)
        if name in LIMITED:
            assert load.max() <= math.ceil(LIMITED[name] * n / e - 1e-9)
        if name not in DROPS | {"expert_choice"}:
            assert np.all(held[row, :n].sum(-1) >= 1), "a token without an expert"
    if name != "expert_choice":
        assert held.sum(-1).max(initial=0) <= 2
    if name in SUMS_TO_ONE:
        np.testing.assert_allclose(weights[real].sum(-1), 1, rtol=1e-5)
    asked = sums["expert_load"].sum() * rows
    np.testing.assert_allclose(asked, held.sum() + sums["sum_dropped"] * rows, atol=1e-3)
    assert name in DROPS or abs(sums["sum_dropped"]) < 1e-5
    np.testing.assert_allclose(sums["sum_tokens"] * rows, real.sum())
    np.testing.assert_allclose(sums["sum_unserved"] * rows, np.sum(real & (held.sum(-1) == 0)), atol=1e-4)


FAST = ("top_k", "threshold", "switch, stages", "gshard", "base", "expert_choice")
FEW = [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in ROUTES]


@pytest.mark.parametrize("name", FEW)
def test_a_choice_is_one(name):
    @held_to(cases(), st.integers(0, 9), examples=15)
    def holds(case, seed):
        check(name, case, seed)

    holds()


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(1, 1, 2), (3, 4, 7), (1, 23, 3), (2, 5, 17)], ids=str)
@pytest.mark.parametrize("name", ROUTES)
def test_a_choice_is_one_of_every_shape(name, shape):
    @held_to(cases((shape,)), st.integers(0, 9), examples=40)
    def holds(case, seed):
        check(name, case, seed)

    holds()


def test_the_check_sees_a_router_that_drops_and_says_nothing(monkeypatch):
    def silent(logits, real, key):
        routing = top_k.route(logits, real, k=1)
        return scores.narrowed(routing, routing.kept & (jnp.arange(real.shape[1])[:, None] % 2 == 0))

    monkeypatch.setitem(ROUTES, "top_k", silent)
    compiled.cache_clear()
    with pytest.raises(AssertionError, match="a token without an expert"):
        check("top_k", make("normal"), 0)
    compiled.cache_clear()

