"""Statistics of routing are exact over micro-batches, leave padding out, and have the values that an eye expects."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arch.ops.routing import capacity, expert_choice, gshard, losses, statistics, switch, threshold, top_k

B, T, E = 4, 7, 5
LENGTHS = (7, 3, 0, 5)


@pytest.fixture(scope="module")
def logits():
    return jnp.asarray(np.random.default_rng(0).normal(size=(B, T, E)), jnp.float32)


@pytest.fixture(scope="module")
def real():
    return jnp.arange(T)[None] < jnp.asarray(LENGTHS)[:, None]


def of(routing, real):
    return statistics.summary(jax.device_get(statistics.sums(routing, real)))


def test_they_are_means_over_all_real_tokens(logits, real):
    tokens = np.asarray(logits, np.float64)[np.asarray(real)]
    p = np.exp(tokens) / np.exp(tokens).sum(-1, keepdims=True)
    load = np.bincount(np.argsort(-tokens)[:, :2].ravel(), minlength=E) / (2 * len(tokens))
    expected = {
        "load_max": load.max(), "load_min": load.min(), "load_cv": load.std() / load.mean(),
        "dead_experts": sum(load == 0), "dropped_fraction": 0.0, "unserved_fraction": 0.0,
        "router_entropy": -(p * np.log(p)).sum(-1).mean(), "top1_confidence": p.max(-1).mean(),
    } | {f"load/{i}": share for i, share in enumerate(load)}  # fmt: skip
    assert of(top_k.route(logits, real, k=2), real) == pytest.approx(expected, rel=1e-5)


def test_the_average_over_micro_batches_is_that_of_the_whole_batch(logits, real):
    whole = statistics.sums(top_k.route(logits, real, k=2), real)
    parts = [statistics.sums(top_k.route(logits[i::2], real[i::2], k=2), real[i::2]) for i in range(2)]
    mean = jax.tree.map(lambda *values: sum(values) / 2, *jax.device_get(parts))
    assert statistics.summary(mean) == pytest.approx(statistics.summary(jax.device_get(whole)), rel=1e-6)


def test_even_routing_has_no_variation_and_no_dead_expert(real):
    eye = 9 * jax.nn.one_hot(jnp.arange(T) % E, E)[None]
    found = of(top_k.route(eye[:, :E], jnp.ones((1, E), bool), k=1), jnp.ones((1, E), bool))
    assert (found["load_max"], found["load_min"], found["load_cv"]) == pytest.approx((1 / E, 1 / E, 0), abs=1e-6)
    assert found["dead_experts"] == 0


def test_a_router_that_sends_all_to_one_expert_has_the_largest_variation_and_no_entropy():
    logits, real = jnp.zeros((1, T, E)).at[..., 2].set(99), jnp.ones((1, T), bool)
    found = of(top_k.route(logits, real, k=1), real)
    assert found["load_cv"] == pytest.approx((E - 1) ** 0.5)
    assert (found["dead_experts"], found["load_max"], found["load/2"]) == (E - 1, 1, 1)
    assert (found["router_entropy"], found["top1_confidence"]) == pytest.approx((0, 1), abs=1e-6)


def test_a_router_that_knows_nothing_has_the_entropy_of_all_experts(real):
    found = of(top_k.route(jnp.zeros((B, T, E)), real, k=1), real)
    assert (found["router_entropy"], found["top1_confidence"]) == pytest.approx((np.log(E), 1 / E), rel=1e-6)


@pytest.fixture(scope="module")
def same():
    """Logits by which all tokens want expert 1, and then expert 3."""
    return jnp.zeros((B, T, E)).at[..., 1].set(2).at[..., 3].set(1)


def test_assignments_that_find_their_expert_full_are_dropped(same, real):
    routing = capacity.drop(top_k.route(same, real, k=2), real, capacity_factor=1.0)
    served = sum(-(-2 * n // E) for n in LENGTHS) / sum(LENGTHS)  # with both of their experts
    found = of(routing, real)
    assert [found["dropped_fraction"], found["unserved_fraction"]] == pytest.approx([1 - served, 1 - served])
    without_second = dataclasses.replace(routing, kept=routing.kept.at[..., 1].set(False))
    found = of(without_second, real)
    assert [found["dropped_fraction"], found["unserved_fraction"]] == pytest.approx([1 - served / 2, 1 - served])


def test_loads_are_of_what_the_router_asked_for(same, real):
    routing = capacity.drop(top_k.route(same, real, k=1), real, capacity_factor=0.2)
    found = of(routing, real)
    assert (found["load/1"], found["dead_experts"]) == (1, E - 1)


def test_experts_that_are_all_full_do_not_stop_the_balancing_bias():
    wanted, real = jnp.asarray([0, 0, 0, 1, 2, 3, 4]), jnp.ones((1, T), bool)
    routing = capacity.drop(top_k.route(jax.nn.one_hot(wanted, E)[None], real, k=1), real, capacity_factor=0.7)
    assert jnp.sum(routing.kept, axis=(0, 2)).tolist() == [1, 0, 0, 1, 1, 1, 1]
    load = statistics.sums(routing, real)["expert_load"]
    assert losses.balanced_bias(jnp.zeros(E), load, rate=1.0).tolist() == [-1, 1, 1, 1, 1]


def test_a_token_that_gets_its_second_choice_is_not_dropped_but_counts_for_the_first(same, real):
    routing = capacity.second_chance(top_k.route(same, real, k=1), real, capacity_factor=1.0, stages=2)
    served = sum(min(n, 2 * -(-n // E)) for n in LENGTHS)
    found = of(routing, real)
    assert found["load/1"] == 1 and found["dropped_fraction"] == pytest.approx(1 - served / sum(LENGTHS))


def test_a_choice_that_the_router_did_not_want_is_not_dropped(logits, real):
    found = of(threshold.route(logits, real, threshold=0.5, k=E), real)
    assert found["dropped_fraction"] == 0
    by_chance = of(gshard.route(logits, real, capacity_factor=E, key=jax.random.key(0)), real)
    assert by_chance["dropped_fraction"] == 0


@pytest.mark.parametrize(
    ("route", "k"),
    [
        (lambda *args: switch.route(*args, capacity_factor=1.0), 1),
        (lambda *args: switch.route(*args, capacity_factor=1.0, priority="batch"), 1),
        (lambda *args: switch.route(*args, capacity_factor=1.0, stages=2), 1),
        (lambda *args: gshard.route(*args, capacity_factor=1.0), 2),
    ],
    ids=["switch", "switch by probability", "switch with second choices", "gshard"],
)
def test_routers_with_a_capacity_always_count_what_they_drop(same, real, route, k):
    routing = route(same, real)
    lost = 1 - np.asarray(routing.kept).sum() / (k * sum(LENGTHS))
    assert 0 < lost < 1 and of(routing, real)["dropped_fraction"] == pytest.approx(lost)


def test_tokens_that_no_expert_chose_are_unserved(logits, real):
    routing = expert_choice.route(logits, real, capacity_factor=0.5)
    row = np.arange(B)[:, None, None]
    seen = np.zeros((B, T), bool)
    np.logical_or.at(seen, (row, np.asarray(routing.tokens)), np.asarray(routing.kept))
    lost = (np.asarray(real) & ~seen).sum() / sum(LENGTHS)
    assert 0 < lost < 1 and of(routing, real)["unserved_fraction"] == pytest.approx(lost)
    assert of(routing, real)["dropped_fraction"] == 0


def test_a_batch_of_padding_has_statistics_of_zero(logits):
    none = jnp.zeros((B, T), bool)
    assert set(of(top_k.route(logits, none, k=2), none).values()) == {0.0}


def test_no_gradient_goes_through_them(logits, real):
    value = lambda logits: sum(jnp.sum(v) for v in statistics.sums(top_k.route(logits, real, k=2), real).values())
    np.testing.assert_array_equal(jax.grad(value)(logits), 0)


def test_loads_count_what_the_balance_loss_counts(logits, real):
    routing = top_k.route(logits, real, k=2)
    load = losses.counts(routing.experts, routing.kept, num_experts=E)
    np.testing.assert_allclose(statistics.sums(routing, real)["expert_load"], load.mean(0), rtol=1e-6)


# Tables at evaluation


TOKENS = np.random.default_rng(1).integers(0, 6, (B, T)).astype(np.int32)
WATCHED = (1, 3, 4)


@pytest.mark.parametrize("dropping", [False, True])
def test_tables_count_the_tokens_that_reach_each_expert(logits, real, dropping):
    routing = top_k.route(logits, real, k=2)
    if dropping:
        routing = capacity.drop(routing, real, capacity_factor=0.7)
    together, count, load = np.zeros((E, E)), np.zeros(3), np.zeros((3, E))
    for row, token in zip(*np.nonzero(np.asarray(real))):
        kept = np.asarray(routing.experts)[row, token][np.asarray(routing.kept)[row, token]]
        together[np.ix_(kept, kept)] += 1
        if TOKENS[row, token] in WATCHED:
            place = WATCHED.index(TOKENS[row, token])
            count[place] += 1
            load[place, kept] += 1
    found = statistics.tables(routing, real, jnp.asarray(TOKENS), jnp.asarray(WATCHED))
    assert tuple(found) == statistics.TABLES
    for name, expected in zip(statistics.TABLES, (together, count, load)):
        np.testing.assert_allclose(found[name], expected / B, rtol=1e-6)


def test_tables_are_of_experts_that_choose_too(logits, real):
    routing = expert_choice.route(logits, real, capacity_factor=1.5)
    found = statistics.tables(routing, real, jnp.asarray(TOKENS), jnp.arange(6))
    served = np.asarray(routing.kept).sum(axis=(0, 2))
    np.testing.assert_allclose(B * jnp.diagonal(found["coactivation"]), served, rtol=1e-6)
    np.testing.assert_allclose(B * found["watched_load"].sum(0), served, rtol=1e-6)
    assert B * found["watched_count"].sum() == pytest.approx(real.sum())
