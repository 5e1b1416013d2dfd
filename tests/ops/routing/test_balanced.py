"""BASE's assignment, Sinkhorn's, expert choice and soft mixtures: tokens compete, as they do in naive versions."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from arch.ops.routing import base, expert_choice, sinkhorn, soft, top_k
from tests.contracts.sublayers import jit
from tests.ops.routing.draws import Case, assert_pairs, call, cases, held_to, make, softmax


def _largest_sum(logits):
    """Of the scores of n tokens, at most ceil(n / E) to an expert: each expert stands for so many columns."""
    places = math.ceil(len(logits) / logits.shape[1])
    columns = np.repeat(logits, places, axis=1)
    rows, chosen = linear_sum_assignment(columns, maximize=True)
    return columns[rows, chosen].sum()


def check_base(route, case, tolerance=0.01):
    """No expert has more than its share, and the sum is the largest, but for what the tolerance allows."""
    routing = call(route, case, balanced=True)
    np.testing.assert_array_equal(routing.kept[..., 0], case.real)
    for row, logits, _ in case.rows():
        if n := len(logits):
            experts = routing.experts[row, :n, 0]
            chosen = logits[np.arange(n), experts]
            assert np.bincount(experts).max() <= math.ceil(n / logits.shape[1])
            assert chosen.sum() >= _largest_sum(logits) - n * tolerance * np.ptp(logits) - 1e-4
            np.testing.assert_allclose(routing.weights[row, :n, 0], 1 / (1 + np.exp(-chosen)), atol=1e-6)


@held_to(cases())
def test_base_finds_a_balanced_assignment_of_the_largest_sum(case):
    check_base(base.route, case)


def test_the_auction_ends_when_logits_are_not_numbers():
    case = make("normal")
    case.logits[0] = np.nan
    case.logits[1, 3, 2] = -np.inf
    experts = call(base.route, case, balanced=True).experts
    assert all(np.bincount(row.ravel()).max() <= 3 for row in experts)


def test_the_check_sees_a_greedy_choice_and_one_by_turns():
    case = make("skewed")
    with pytest.raises(AssertionError):
        check_base(lambda logits, real, balanced: base.route(logits, real, balanced=False), case)

    def by_turns(logits, real, balanced):
        routing = base.route(logits, real, balanced=False)
        experts = jnp.broadcast_to(jnp.arange(11)[:, None] % 5, routing.experts.shape)
        return routing.__class__(**vars(routing) | dict(experts=experts))

    with pytest.raises(AssertionError):
        check_base(by_turns, case)


@pytest.mark.parametrize("route", [base.route, sinkhorn.route], ids=["base", "sinkhorn"])
def test_in_evaluation_each_token_goes_to_its_best_expert(route):
    case = make("skewed")
    np.testing.assert_array_equal(call(route, case, balanced=False).experts[..., 0], case.logits.argmax(-1))


@pytest.mark.parametrize("route", [base.route, sinkhorn.route], ids=["base", "sinkhorn"])
def test_in_training_a_token_s_expert_depends_on_later_tokens(route):
    case = make("skewed")
    experts = []
    for last in ([0, 99, 0, 0, 0], [99, 0, 0, 0, 0]):  # all others want expert 1
        case.logits[:, -1] = last
        experts.append(call(route, case, balanced=True).experts[:, :-1])
    assert np.any(experts[0] != experts[1])


def _plan(logits, iterations, temperature):
    """Columns, then rows, of the positive matrix scaled in turn."""
    n, e = logits.shape
    kernel = np.exp((logits - logits.max()) / temperature)
    u, v = np.ones(n), np.ones(e)
    for _ in range(iterations):
        u = 1 / (kernel @ v)
        v = n / e / (kernel.T @ u)
    return u[:, None] * kernel * v


def check_sinkhorn(route, case, iterations=20, temperature=1.0):
    """The largest entry of each row of the plan, and its softmax probability."""
    options = dict(iterations=iterations, temperature=temperature)
    routing = call(route, case, balanced=True, **options)
    for row, logits, p in case.rows():
        if not len(logits):
            continue
        plan = _plan(logits, iterations, temperature)
        experts = routing.experts[row, : len(logits), 0]
        np.testing.assert_allclose(plan[np.arange(len(logits)), experts], plan.max(-1), rtol=1e-3)  # ties: any
        np.testing.assert_allclose(routing.weights[row, : len(logits), 0], p[np.arange(len(p)), experts], atol=1e-6)


@held_to(cases())
def test_sinkhorn_takes_the_largest_entries_of_the_balanced_plan(case):
    check_sinkhorn(sinkhorn.route, case)


def test_the_check_sees_a_greedy_choice_in_place_of_the_plan():
    with pytest.raises(AssertionError):
        check_sinkhorn(lambda *args, balanced, **options: sinkhorn.route(*args, balanced=False), make("skewed"))


def test_sinkhorn_s_columns_come_to_the_even_share():
    case = make("normal", lengths=(11, 6))
    score, real = jnp.asarray(case.logits), jnp.asarray(case.real)
    column = np.asarray(jit(lambda *args: sinkhorn.column_scaling(*args, iterations=100))(score, real))
    for row, logits, _ in case.rows():
        plan = softmax(logits + column[row])
        np.testing.assert_allclose(plan.sum(0), len(logits) / 5, rtol=1e-3)


def _expert_choice(p, rounded, factor):
    """For each expert its best tokens, the earlier first among equals: those whose probabilities round to the same."""
    n, e = p.shape
    out = [{} for _ in range(n)]
    for i in range(e):
        for t in sorted(range(n), key=lambda t: (-rounded[t, i], t))[: min(n, math.ceil(factor * n / e))]:
            out[t][i] = p[t, i]
    return out


def by_token(routing) -> list[list[dict[int, float]]]:
    """An ExpertChoice as {expert: weight} for each row and token."""
    rows, tokens = routing.probabilities.shape[:2]
    out = [[{} for _ in range(tokens)] for _ in range(rows)]
    for row, i, c in np.ndindex(*routing.tokens.shape):
        if routing.kept[row, i, c]:
            assert i not in out[row][routing.tokens[row, i, c]]
            out[row][routing.tokens[row, i, c]][i] = routing.weights[row, i, c]
    return out


def check_expert_choice(route, case, factor):
    """Every expert has its best tokens."""
    routing = call(route, case, capacity_factor=factor)
    np.testing.assert_allclose(routing.probabilities, case.p, atol=1e-6)
    found = by_token(routing)
    for row, _, p in case.rows():
        for t, wanted in enumerate(_expert_choice(p, routing.probabilities[row], factor)):
            assert found[row][t].keys() == wanted.keys()
            assert all(abs(found[row][t][i] - weight) < 1e-6 for i, weight in wanted.items())
        assert not any(found[row][len(p) :])


@pytest.mark.parametrize("factor", [1.0, 2.0])
def test_expert_choice_is_each_expert_s_best_tokens(factor):
    @held_to(cases(), examples=20)
    def holds(case):
        check_expert_choice(expert_choice.route, case, factor)

    holds()


def test_the_check_sees_a_per_token_top_k():
    """The commonest mistake: k experts a token, under the name of expert choice."""

    def per_token(logits, real, *, capacity_factor):
        chosen = top_k.route(logits, real, k=2)
        mask = jnp.any(jax.nn.one_hot(chosen.experts, 5, dtype=bool), axis=2).swapaxes(1, 2)
        tokens = jnp.broadcast_to(jnp.arange(11), mask.shape)
        weights = jnp.where(mask, chosen.probabilities.swapaxes(1, 2), 0)
        routing = expert_choice.route(logits, real, capacity_factor=capacity_factor)
        return routing.__class__(tokens=tokens, weights=weights, probabilities=chosen.probabilities, kept=mask)

    with pytest.raises(AssertionError):
        check_expert_choice(per_token, make("skewed"), 2.0)


def test_expert_choice_is_balanced_and_not_causal():
    case = make("skewed")
    routing = call(expert_choice.route, case, capacity_factor=2.0)
    assert np.all(routing.kept.sum(-1) == 5)  # ceil(2 * 11 / 5)
    logits = case.logits.copy()
    logits[:, -1] = [0, 99, 0, 0, 0]
    changed = by_token(call(expert_choice.route, Case(logits, case.lengths), capacity_factor=2.0))
    assert changed[0][:-1] != by_token(routing)[0][:-1]


def _soft(logits):
    """Eq. 1 and 3 over [n e c]."""
    flat = logits.reshape(len(logits), -1)
    return softmax(flat.T).T.reshape(logits.shape), softmax(flat).reshape(logits.shape)


def check_soft(route, case):
    """Both softmaxes, of the real tokens alone."""
    routing = call(route, case)
    for row, n in enumerate(case.lengths):
        dispatch, combine = _soft(case.logits[row, :n]) if n else (0, 0)
        np.testing.assert_allclose(routing.dispatch[row, :n], dispatch, atol=1e-6)
        np.testing.assert_allclose(routing.combine[row, :n], combine, atol=1e-6)
        assert not np.any(routing.dispatch[row, n:]) and not np.any(routing.combine[row, n:])


PLACES = ((2, 5, 3, 2),)


@held_to(cases(PLACES))
def test_soft_mixtures_are_two_softmaxes(case):
    check_soft(soft.route, case)


def test_the_check_sees_the_softmaxes_exchanged():
    def exchanged(logits, real):
        routing = soft.route(logits, real)
        return routing.__class__(dispatch=routing.combine, combine=routing.dispatch)

    with pytest.raises(AssertionError):
        check_soft(exchanged, make("normal", PLACES[0]))


def test_a_row_of_padding_gives_no_gradient_that_is_not_a_number():
    case = make("normal", PLACES[0], lengths=(5, 0))
    loss = lambda logits: jnp.sum(soft.route(logits, jnp.asarray(case.real)).dispatch ** 2)
    assert np.isfinite(jit(jax.grad(loss))(jnp.asarray(case.logits))).all()
    assert_pairs(call(sinkhorn.route, make("normal", lengths=(0, 0)), balanced=True), [[], []])
