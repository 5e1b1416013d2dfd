"""Thresholds, tables and forced routes against loops; noise and expert dropout, which do nothing without a key."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st

from arch.ops.routing import forced, hashed, noise, scores, sigmoid, threshold, top_k
from tests.contracts.sublayers import jit
from tests.ops.routing.draws import as_numpy, assert_pairs, call, cases, held_to, make, order


def _top_p(p, bound, k):
    """Down from the most probable, until their sum reaches the bound."""
    out, total = {}, 0.0
    for i in order(p)[:k]:
        out[i], total = p[i], total + p[i]
        if total >= bound:
            break
    return out


def check_threshold(route, case, bound, k):
    """As many experts as it takes."""
    expected = [[_top_p(p, bound, k) for p in ps] for _, _, ps in case.rows()]
    assert_pairs(call(route, case, threshold=bound, k=k), expected)


@held_to(cases(), st.sampled_from([0.0, 0.43, 0.87]))
def test_a_threshold_takes_as_many_experts_as_it_needs(case, bound):
    check_threshold(threshold.route, case, bound, 3)


def test_the_check_sees_a_fixed_number_of_experts_and_a_threshold_on_each():
    case = make("normal")
    check_threshold(threshold.route, case, 0.6, 5)
    with pytest.raises(AssertionError):
        check_threshold(lambda *args, threshold, k: top_k.route(*args, k=2), case, 0.6, 5)

    def on_each(logits, real, *, threshold, k):
        routing = top_k.route(logits, real, k=k)
        return routing.__class__(**vars(routing) | dict(kept=routing.kept & (routing.weights >= threshold)))

    with pytest.raises(AssertionError):
        check_threshold(on_each, case, 0.6, 5)


@held_to(cases(), examples=15)
def test_the_dynamic_loss_is_the_entropy_of_the_probabilities(case):
    each = [-np.sum(p * np.log(np.maximum(p, 1e-300)), axis=-1) for _, _, p in case.rows()]
    expected = np.mean([row.mean() if len(row) else 0.0 for row in each])
    losses = call(threshold.route, case, threshold=0.5, k=2).losses
    np.testing.assert_allclose(losses["entropy"], expected, rtol=1e-5, atol=1e-6)


TABLE = hashed.random_table(7, num_experts=5, k=2)


def check_hashed(route):
    """Tokens of the same id have the same experts, those of the table, with equal weights, whatever else they are."""
    ids, real = np.asarray([[3, 0, 6, 3]]), np.asarray([[True, True, True, False]])
    routing = as_numpy(route(jnp.asarray(ids), jnp.asarray(real), table=jnp.asarray(TABLE), num_experts=5))
    assert_pairs(routing, [[{int(e): 0.5 for e in TABLE[i]} for i in (3, 0, 6)]])
    np.testing.assert_allclose(routing.probabilities.sum(-1), 1)


def test_a_hash_goes_by_the_id_alone():
    check_hashed(hashed.route)


@pytest.mark.parametrize(
    "instead", [lambda ids: jnp.arange(4)[None], lambda ids: ids + 1, lambda ids: jnp.argsort(ids)],
    ids=["the position", "another id", "the rank"],
)  # fmt: skip
def test_the_check_sees_a_hash_of(instead):
    with pytest.raises(AssertionError):
        check_hashed(lambda ids, *rest, **options: hashed.route(instead(ids), *rest, **options))


def test_a_random_table_gives_each_id_different_experts_and_each_expert_its_part():
    table = hashed.random_table(4000, num_experts=5, k=2, seed=1)
    assert table.shape == (4000, 2) and np.all(table[:, 0] != table[:, 1])
    np.testing.assert_allclose(np.bincount(table.ravel()) / 8000, 0.2, atol=0.02)


def _forced(p, experts):
    """The probabilities at the given experts, divided by their sum."""
    return {int(i): p[i] / sum(p[j] for j in experts) for i in experts}


def check_forced(route, case, seed):
    """The experts given, whatever the logits, with the router's weights."""
    experts = np.argsort(np.random.default_rng(seed).random(case.logits.shape), axis=-1)[..., :2]
    routing = call(route, case, dict(experts=experts))
    expected = [[_forced(p, experts[row, t]) for t, p in enumerate(ps)] for row, _, ps in case.rows()]
    assert_pairs(routing, expected)


@held_to(cases(((2, 11, 5),)), st.integers(0, 99))
def test_a_forced_route_takes_the_experts_given_and_the_router_s_weights(case, seed):
    check_forced(forced.route, case, seed)


NOT_FORCED = {
    "the router's own choice": lambda logits, real, *, experts: top_k.route(logits, real, k=2, renormalize=True),
    "equal weights": lambda logits, real, *, experts: forced.route(0 * logits, real, experts=experts),
    "undivided weights": lambda *args, **experts: forced.route(*args, **experts, renormalize=False),
}


@pytest.mark.parametrize("wrong", NOT_FORCED)
def test_the_check_sees(wrong):
    with pytest.raises(AssertionError):
        check_forced(NOT_FORCED[wrong], make("normal"), 0)


def test_random_experts_differ_within_a_token_and_are_even_over_many():
    positions = jnp.arange(2000).reshape(4, 500)
    experts = np.asarray(jit(lambda x: forced.at_random(jax.random.key(0), x, num_experts=5, k=2))(positions))
    assert np.all(experts[..., 0] != experts[..., 1])
    np.testing.assert_allclose(np.bincount(experts.ravel()) / 4000, 0.2, atol=0.03)


@pytest.mark.parametrize("n", [1, 4, 11])
def test_experts_in_turn_are_balanced_at_every_length(n):
    experts = np.asarray(forced.in_turn(jnp.arange(n)[None], num_experts=5, k=2))[0]
    assert np.ptp(np.bincount(experts.ravel(), minlength=5)) <= 1
    assert np.all(experts[:, 0] != experts[:, 1])


def test_skewed_routes_are_as_skewed_as_asked():
    one = np.asarray(forced.skewed(jnp.arange(12)[None], num_experts=5, k=2))
    assert np.all(one == [0, 1])
    half = np.asarray(forced.skewed(jnp.arange(12)[None], num_experts=5, k=1, share=0.5))[0, :, 0]
    others = np.arange(12) % 5
    np.testing.assert_array_equal(half, np.where(np.arange(12) % 2 == 1, 0, others))


X = np.random.default_rng(0).standard_normal((3, 4, 5)).astype(np.float32)


CHANGES = {
    "jitter": lambda x, key: noise.jitter(x, key, epsilon=0.1),
    "drop_experts": lambda x, key: noise.drop_experts(x, key, rate=0.5, at_least=1),
}


@pytest.mark.parametrize("name", CHANGES)
def test_without_a_key_nothing_is_changed(name):
    change = CHANGES[name]
    np.testing.assert_array_equal(change(jnp.asarray(X), None), X)
    assert np.any(np.asarray(change(jnp.asarray(X), jax.random.key(0))) != X)


def test_jitter_multiplies_each_entry_by_a_number_of_its_range():
    ratio = np.asarray(noise.jitter(jnp.asarray(X), jax.random.key(0), epsilon=0.1)) / X
    assert ratio.min() >= 0.9 - 1e-6 and ratio.max() <= 1.1 + 1e-6 and ratio.std() > 0.04


def test_whole_experts_are_dropped_from_whole_rows_and_enough_are_left():
    logits = jnp.zeros((500, 2, 5))
    drop = jit(lambda x: noise.drop_experts(x, jax.random.key(0), rate=0.4, at_least=2))
    dropped = np.asarray(drop(logits)) == scores.DROPPED
    np.testing.assert_array_equal(dropped[:, 0], dropped[:, 1])
    left = 5 - dropped[:, 0].sum(-1)
    assert left.min() == 2
    np.testing.assert_allclose(np.mean(left == 5), 0.6**5, atol=0.04)


@pytest.mark.parametrize("route", [top_k.route, sigmoid.route], ids=["softmax", "sigmoid"])
def test_a_dropped_expert_is_not_chosen_however_much_the_bias_wants_it(route):
    case = make("normal")
    case.logits[..., 3] = scores.DROPPED
    bias = np.asarray([0, 0, 0, 9, 0], np.float32)
    assert not np.any(call(route, case, dict(bias=bias), k=2).experts == 3)
