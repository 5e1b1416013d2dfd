"""Capacity, batch priority, the second chance, Switch and GShard against loops over tokens written from the papers."""

import math
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st

from arch.ops.routing import capacity, gshard, scores, switch, top_k
from tests.contracts.sublayers import jit
from tests.ops.routing.draws import Case, as_numpy, assert_pairs, call, cases, held_to, make, order

FACTORS = st.sampled_from([0.5, 1.25])  # each is compiled anew


def _limit(n, k, num_experts, factor):
    return math.ceil(Fraction(str(factor)) * k * n / num_experts)


def _served(choices, priority, limit):
    """choices[t] lists (expert, weight): all first choices in the order of priority, then all second ones."""
    taken, out = {}, [{} for _ in choices]
    for place in range(max(map(len, choices), default=0)):
        for t in priority:
            expert, weight = choices[t][place]
            if weight is None:
                continue  # discarded before it asks
            if taken.get(expert, 0) < limit:
                out[t][expert] = weight
            taken[expert] = taken.get(expert, 0) + 1
    return out


def _switch(p, factor, sure=None):
    """Each token asks its best expert, the earlier ones (or those that are surest) first."""
    n, e = p.shape
    first = range(n) if sure is None else sorted(range(n), key=lambda t: (-sure[t], t))
    return _served([[(order(row)[0], row.max())] for row in p], first, _limit(n, 1, e, factor))


def _second_chance(p, factor, stages):
    """In rounds: the tokens without an expert ask their next best, in their order."""
    n, e = p.shape
    load, out = [0] * e, [{} for _ in range(n)]
    for stage in range(min(stages, e)):
        for t in range(n):
            expert = order(p[t])[stage]
            if not out[t] and load[expert] < _limit(n, 1, e, factor):
                out[t], load[expert] = {expert: p[t, expert]}, load[expert] + 1
    return out


def _gshard(p, factor, chance=None):
    """Algorithm 1, with a discarded second choice taking no place."""
    n, e = p.shape
    choices = []
    for t in range(n):
        first, second = order(p[t])[:2]
        w1, w2 = (p[t, i] / (p[t, first] + p[t, second]) for i in (first, second))
        choices.append([(first, w1), (second, w2 if chance is None or 2 * w2 > chance[t] else None)])
    return _served(choices, range(n), _limit(n, 2, e, factor))


def check_switch(route, case, factor, priority="token"):
    """Switch's top-1 with dropped tokens."""
    routing = call(route, case, capacity_factor=factor, priority=priority)
    sure = routing.probabilities.max(-1) if priority == "batch" else [None] * len(case.lengths)  # ties as they round
    assert_pairs(routing, [_switch(p, factor, sure[row]) for row, _, p in case.rows()])


@held_to(cases(), FACTORS)
def test_switch_drops_what_comes_last(case, factor):
    check_switch(switch.route, case, factor)


@held_to(cases(), FACTORS)
def test_batch_priority_drops_what_is_least_sure(case, factor):
    check_switch(switch.route, case, factor, "batch")


def test_the_check_sees_a_capacity_that_ignores_the_order_of_tokens():
    case = make("skewed")
    backwards = lambda logits, real, **options: jax.tree.map(
        lambda leaf: leaf[:, ::-1], switch.route(logits[:, ::-1], real, **options)
    )
    check_switch(switch.route, case, 1.0)
    with pytest.raises(AssertionError):
        check_switch(backwards, case, 1.0)
    with pytest.raises(AssertionError):
        check_switch(lambda *args, priority, **options: switch.route(*args, **options), case, 1.0, "batch")


def test_the_gate_has_a_gradient_which_a_renormalized_one_has_not():
    case = make("normal")
    args = jnp.asarray(case.logits), jnp.asarray(case.real)
    gate = lambda logits, **kind: jnp.sum(top_k.route(logits, args[1], k=1, **kind).weights ** 2)
    assert np.all(np.any(np.asarray(jit(jax.grad(gate))(args[0])) != 0, axis=-1))
    assert np.all(np.abs(jit(jax.grad(lambda logits: gate(logits, renormalize=True)))(args[0])) < 1e-6)
    switched = lambda logits: jnp.sum(switch.route(logits, args[1], capacity_factor=1.0).weights ** 2)
    kept = call(switch.route, case, capacity_factor=1.0).kept[..., 0]
    np.testing.assert_array_equal(np.any(np.asarray(jit(jax.grad(switched))(args[0])) != 0, axis=-1), kept)


@held_to(cases(), FACTORS, st.sampled_from([2, 5]))
def test_a_token_that_finds_its_expert_full_tries_the_next(case, factor, stages):
    expected = [_second_chance(p, factor, stages) for _, _, p in case.rows()]
    assert_pairs(call(switch.route, case, capacity_factor=factor, stages=stages), expected)


@held_to(cases(), examples=15)
def test_no_token_is_left_behind_when_it_may_try_every_expert(case):
    routing = call(switch.route, case, capacity_factor=1.0, stages=5)
    np.testing.assert_array_equal(routing.kept[..., 0], case.real)


@held_to(cases(), FACTORS)
def test_gshard_without_chance_is_its_algorithm(case, factor):
    expected = [_gshard(p, factor) for _, _, p in case.rows()]
    assert_pairs(call(gshard.route, case, capacity_factor=factor), expected)


def check_gshard(route, case, factor, seed):
    """Algorithm 1, with the chances that the same key gives."""
    key = jax.random.key(seed)
    chance = np.asarray(jax.random.uniform(key, case.real.shape))
    expected = [_gshard(p, factor, chance[row]) for row, _, p in case.rows()]
    assert_pairs(call(route, case, dict(key=key), capacity_factor=factor), expected)


@held_to(cases(), FACTORS, st.integers(0, 3))
def test_gshard_s_second_choice_is_used_with_twice_its_weight(case, factor, seed):
    check_gshard(gshard.route, case, factor, seed)


def _by_chance(often):
    """GShard's gating whose second choice is used with the probability `often(its weight)`."""

    def route(logits, real, *, capacity_factor, key):
        routing = top_k.route(logits, real, k=2, renormalize=True)
        second = jax.random.uniform(key, real.shape) < often(routing.weights[..., 1])
        wanted = routing.kept & jnp.stack([jnp.ones_like(second), second], axis=-1)
        return capacity.drop(scores.narrowed(routing, wanted), real, capacity_factor=capacity_factor)

    return route


@pytest.mark.parametrize(
    "often", [jnp.ones_like, jnp.zeros_like, lambda weight: weight, lambda weight: 0.5 + 0 * weight],
    ids=["always", "never", "in proportion", "by a coin"],
)  # fmt: skip
def test_the_check_sees_second_choices_used_otherwise(often):
    case = make("normal")
    check_gshard(_by_chance(lambda weight: 2 * weight), case, 1.25, 0)
    with pytest.raises(AssertionError):
        check_gshard(_by_chance(often), case, 1.25, 0)


def test_over_many_keys_a_second_choice_is_used_as_often_as_twice_its_weight_says():
    logits = jnp.log(jnp.asarray([[[0.7, 0.1, 0.2], [0.5, 0.1, 0.4]]]))  # w_2: 2 / 9 and 4 / 9
    route = lambda key: gshard.route(logits, jnp.ones((1, 2), bool), capacity_factor=3.0, key=key).kept[0, :, 1]
    often = np.mean(jit(jax.vmap(route))(jax.random.split(jax.random.key(0), 2000)), axis=0)
    np.testing.assert_allclose(often, [4 / 9, 8 / 9], atol=0.04)  # 3.6 standard deviations


def test_the_algorithm_sees_second_choices_served_before_later_first_ones():
    """Three tokens, places for two: the second choice of the first token must give way to the first of the last."""
    logits = np.asarray([[[2.0, 1.0], [2.0, 1.0], [1.0, 2.0]]], np.float32)
    routing = as_numpy(gshard.route(jnp.asarray(logits), jnp.ones((1, 3), bool), capacity_factor=0.5))
    expected = [_gshard(np.exp(logits[0]) / np.exp(logits[0]).sum(-1, keepdims=True), 0.5)]
    assert_pairs(routing, expected)
    in_token_order = [{0: 0.731, 1: 0.269}, {0: 0.731, 1: 0.269}, {}]
    with pytest.raises(AssertionError):
        assert_pairs(routing, [in_token_order], tolerance=1e-3)


def _dropped(logits, real, *, k, capacity_factor):
    return capacity.drop(top_k.route(logits, real, k=k), real, capacity_factor=capacity_factor)


@held_to(cases(), FACTORS, st.sampled_from([1, 2]))
def test_no_expert_takes_more_than_its_capacity(case, factor, k):
    routing = call(_dropped, case, k=k, capacity_factor=factor)
    for row, n in enumerate(case.lengths):
        load = np.bincount(routing.experts[row][routing.kept[row]], minlength=case.p.shape[-1])
        assert load.max() <= _limit(n, k, case.p.shape[-1], factor)


@pytest.mark.parametrize(
    ("factor", "tokens", "experts", "expected"), [(1.1, 10, 11, 1), (1.0, 8, 3, 3), (9.0, 8, 3, 8)]
)
def test_capacity_is_rounded_up_and_no_more_than_the_tokens(factor, tokens, experts, expected):
    assert capacity.limit(tokens, k=1, num_experts=experts, capacity_factor=factor) == expected


def test_padding_changes_no_token_s_fate():
    case = make("skewed", lengths=(7, 4))
    padded = call(switch.route, case, capacity_factor=1.0)
    alone = call(switch.route, Case(case.logits[:1, :7], (7,)), capacity_factor=1.0)
    np.testing.assert_array_equal(padded.kept[0, :7], alone.kept[0])


def test_a_second_chance_never_goes_to_a_dropped_expert():
    """Five tokens want expert 0, which takes two, then 1, which is dropped: with three stages two find expert 2."""
    logits = jnp.broadcast_to(jnp.asarray([3.0, scores.DROPPED, 1.0]), (1, 5, 3))
    real = jnp.ones((1, 5), bool)
    routing = switch.route(logits, real, capacity_factor=1.0, stages=3)
    np.testing.assert_array_equal(routing.kept[0, :, 0], [True, True, True, True, False])
    np.testing.assert_array_equal(routing.experts[0, :4, 0], [0, 0, 2, 2])


def test_a_second_chance_is_for_one_place_a_token():
    case = make("normal")
    routing = top_k.route(jnp.asarray(case.logits), jnp.asarray(case.real), k=2)
    with pytest.raises(ValueError, match="routing has 2 places a token, must have 1"):
        capacity.second_chance(routing, jnp.asarray(case.real), capacity_factor=1.0)
    with pytest.raises(ValueError, match="priority='batch' must be 'token' with stages=2"):
        call(switch.route, case, capacity_factor=1.0, priority="batch", stages=2)
