"""Top-k and sigmoid routing, biased and within groups, against loops over tokens written from the papers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st

from arch.ops.routing import sigmoid, top_k
from tests.ops.routing.draws import assert_pairs, call, cases, held_to, make, order

BIAS = np.asarray([0.3, 0.0, -0.4, 0.9, 0.1])


def _switch(p, k):
    """Shazeer's weights as Switch has them: the probabilities of the chosen."""
    return {i: p[i] for i in order(p)[:k]}


def _mixtral(logits, k):
    """The softmax of the chosen logits alone."""
    chosen = order(logits)[:k]
    powers = {i: np.exp(logits[i] - logits[chosen[0]]) for i in chosen}
    return {i: power / sum(powers.values()) for i, power in powers.items()}


def _deepseek_v2(p, k, num_groups, top_groups, scale):
    """The best groups by their best expert, then the best experts of these."""
    size = len(p) // num_groups
    groups = order([max(p[g * size : (g + 1) * size]) for g in range(num_groups)])[:top_groups]
    allowed = [i for i in order(p) if i // size in groups]
    return {i: scale * p[i] for i in allowed[:k]}


def _deepseek_v3(logits, k, bias, num_groups, top_groups, scale):
    """The best groups by the sum of their k / top_groups best biased scores; the weights are unbiased."""
    s = 1 / (1 + np.exp(-logits))
    biased, size = s + bias, len(s) // num_groups
    value = [sum(sorted(biased[g * size : (g + 1) * size])[-(k // top_groups) :]) for g in range(num_groups)]
    groups = order(value)[:top_groups]
    chosen = [i for i in order(biased) if i // size in groups][:k]
    return {i: scale * s[i] / sum(s[j] for j in chosen) for i in chosen}


def _each(case, rule):
    """The rule for each real token, by the logits and the probabilities."""
    return [[rule(l, p) for l, p in zip(logits, ps)] for _, logits, ps in case.rows()]


def check_switch(route, case, k):
    """Softmax, then the k largest as they are."""
    assert_pairs(call(route, case, k=k), _each(case, lambda logits, p: _switch(p, k)))


def check_mixtral(route, case, k, **options):
    """The k largest logits, then softmax."""
    assert_pairs(call(route, case, k=k, **options), _each(case, lambda logits, p: _mixtral(logits, k)))


@held_to(cases(), st.sampled_from([1, 2]))
def test_softmax_then_select_is_switch_s_and_shazeer_s(case, k):
    check_switch(top_k.route, case, k)


@held_to(cases(), st.sampled_from([1, 2]))
def test_select_then_softmax_is_mixtral_s(case, k):
    check_mixtral(top_k.route, case, k, order="select_then_softmax")


@held_to(cases(), st.sampled_from([1, 2]))
def test_renormalized_the_two_orders_are_one(case, k):
    check_mixtral(top_k.route, case, k, renormalize=True)


def test_the_checks_tell_the_two_orders_apart():
    case = make("normal")
    with pytest.raises(AssertionError):
        check_switch(lambda *args, **options: top_k.route(*args, order="select_then_softmax", **options), case, 2)
    with pytest.raises(AssertionError):
        check_mixtral(top_k.route, case, 2)


def test_experts_stand_best_first_and_ties_go_to_the_lower_number():
    case = make("normal")
    np.testing.assert_array_equal(call(top_k.route, case, k=5).experts, np.argsort(-case.p, axis=-1))
    assert np.all(call(top_k.route, make("equal"), k=2).experts == [0, 1])


@held_to(cases(), st.sampled_from([1, 2]), examples=10)
def test_probabilities_are_the_softmax_of_all_logits(case, k):
    np.testing.assert_allclose(call(top_k.route, case, k=k).probabilities, case.p, atol=1e-6)


def test_bfloat16_logits_are_routed_in_float32():
    case = make("normal")
    routing = top_k.route(jnp.asarray(case.logits, jnp.bfloat16), jnp.asarray(case.real), k=2)
    assert routing.weights.dtype == routing.probabilities.dtype == jnp.float32
    np.testing.assert_allclose(np.asarray(routing.probabilities).sum(-1), 1, rtol=1e-6)


def test_a_bias_changes_the_choice_and_not_the_weights():
    case = make("normal")
    rule = lambda logits, p: {i: p[i] for i in order(p + BIAS)[:2]}
    assert_pairs(call(top_k.route, case, dict(bias=BIAS), k=2), _each(case, rule))


@pytest.mark.parametrize("route", [top_k.route, sigmoid.route], ids=["softmax", "sigmoid"])
def test_no_gradient_reaches_the_bias(route):
    case = make("normal")
    loss = lambda bias: route(jnp.asarray(case.logits), jnp.asarray(case.real), k=2, bias=bias).weights.sum()
    np.testing.assert_array_equal(jax.grad(loss)(jnp.full(5, 0.1)), 0)


GROUPED = ((1, 1, 6), (2, 5, 6))


@held_to(cases(GROUPED), st.sampled_from([(3, 1), (3, 2), (2, 1)]), examples=20)
def test_groups_are_limited_as_in_deepseek_v2(case, groups):
    options = dict(k=2, num_groups=groups[0], top_groups=groups[1], scale=16.0)
    rule = lambda logits, p: _deepseek_v2(p, options["k"], *groups, 16.0)
    assert_pairs(call(top_k.route, case, **options), _each(case, rule), tolerance=1e-4)


def check_v3(route, case, k, groups):
    """DeepSeek-V3's whole gate with a bias."""
    bias = np.asarray([0.2, 0.0, -0.3, 0.4, 0.1, -0.1], np.float32)
    options = dict(num_groups=groups[0], top_groups=groups[1], scale=2.5)
    rule = lambda logits, p: _deepseek_v3(logits, k, bias, *options.values())
    assert_pairs(call(route, case, dict(bias=bias), k=k, **options), _each(case, rule), tolerance=1e-4)


@held_to(cases(GROUPED), st.sampled_from([(2, (3, 1)), (2, (3, 2)), (4, (3, 2)), (3, (1, 1))]), examples=20)
def test_sigmoid_routing_is_deepseek_v3_s(case, options):
    check_v3(sigmoid.route, case, *options)


def test_the_check_sees_a_softmax_in_place_of_the_sigmoids():
    case = make("normal", GROUPED[1])
    check_v3(sigmoid.route, case, 3, (1, 1))
    with pytest.raises(AssertionError):
        check_v3(lambda *args, **options: top_k.route(*args, renormalize=True, **options), case, 3, (1, 1))


def test_the_check_sees_groups_ranked_by_their_best_expert_alone():
    """Two good experts beat one very good one in V3, not in V2."""
    logits = np.asarray([[[3.0, -9.0, 2.0, 2.0, -9.0, -9.0]]], np.float32)
    options = dict(k=2, num_groups=3, top_groups=1)
    real = jnp.ones((1, 1), bool)
    assert sigmoid.route(jnp.asarray(logits), real, **options).experts.tolist() == [[[2, 3]]]
    assert top_k.route(jnp.asarray(logits), real, **options).experts.tolist() == [[[0, 1]]]


def test_sigmoid_scores_divided_by_their_sum_are_what_its_balance_loss_reads():
    case = make("normal")
    s = 1 / (1 + np.exp(-case.logits.astype(float)))
    probabilities = call(sigmoid.route, case, k=2).probabilities
    np.testing.assert_allclose(probabilities, s / s.sum(-1, keepdims=True), rtol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(k=6), "k=6 must be at least 1 and at most the number of experts, 5"),
        (dict(k=2, num_groups=2, top_groups=1), "num_groups=2 must divide the number of experts, 5"),
        (dict(k=2, num_groups=5, top_groups=6), "top_groups=6 must be at least 1 and at most num_groups=5"),
        (dict(k=4, num_groups=5, top_groups=2), "k=4 must be at most 2, the experts in top_groups=2"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(options, message):
    case = make("normal")
    with pytest.raises(ValueError, match=message):
        top_k.route(jnp.asarray(case.logits), jnp.asarray(case.real), **options)
