"""The losses against their equations, their published minima, and what makes a balance loss worthless."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st

from arch.ops.routing import losses, top_k
from tests.contracts.sublayers import jit
from tests.ops.routing.draws import cases, held_to, make

E, K = 5, 2


def statistics(logits, real, *, first=False, cut=False):
    """(load, importance) of top-2 routing; `first` counts first choices alone, `cut` disconnects the probabilities."""
    routing = top_k.route(logits, real, k=K)
    probabilities = jax.lax.stop_gradient(routing.probabilities) if cut else routing.probabilities
    places = slice(0, 1 if first else K)
    load = losses.counts(routing.experts[..., places], routing.kept[..., places], num_experts=logits.shape[-1])
    return load, losses.importance(probabilities, real)


BY_NAME = losses.BALANCE
MINIMUM = {"f_dot_p": 1.0, "cv_squared": 0.0, "sum_of_squares": 1.0, "variance": 0.0}


def _naive(name, load, importance):
    """One row's loss, from counts and sums of its real tokens."""
    if not load.sum():
        return 0.0
    e, p = len(load), importance / importance.sum()
    return {
        "f_dot_p": e * sum(f * q for f, q in zip(load / load.sum(), p)),
        "cv_squared": np.std(importance) ** 2 / np.mean(importance) ** 2,
        "sum_of_squares": e * sum(q * q for q in p),
        "variance": sum((q - 1 / e) ** 2 for q in p) / e,
    }[name]


def _counted(case, pooled=False):
    """(load, importance) of each row by loops, or of all rows together."""
    out = []
    for _, _, ps in case.rows():
        load, importance = np.zeros(ps.shape[-1]), np.zeros(ps.shape[-1])
        for p in ps:
            for i in np.argsort(-np.float32(p), kind="stable")[:K]:
                load[i] += 1
            importance += p
        out.append((load, importance))
    return [tuple(map(sum, zip(*out)))] if pooled else out


SAMPLES = cases(((2, 11, 5),))


@jit
def _all(logits, real):
    load, importance = statistics(logits, real)
    rows = {name: loss(load, importance) for name, loss in BY_NAME.items()}
    together = losses.pool(load), losses.pool(importance)
    return rows, {name: loss(*together) for name, loss in BY_NAME.items()}


@held_to(SAMPLES, examples=40)
def test_each_loss_is_its_equation_for_each_sequence_and_for_the_whole_batch(case):
    rows, together = _all(jnp.asarray(case.logits), jnp.asarray(case.real))
    for name in BY_NAME:
        expected = np.mean([_naive(name, *counted) for counted in _counted(case)])
        np.testing.assert_allclose(rows[name], expected, rtol=1e-5, atol=1e-6, err_msg=name)
        expected = _naive(name, *_counted(case, pooled=True)[0])
        np.testing.assert_allclose(together[name], expected, rtol=1e-5, atol=1e-6, err_msg=f"{name} of the batch")


@pytest.mark.parametrize("name", BY_NAME)
def test_uniform_routing_gives_the_published_minimum(name):
    uniform = jnp.full((2, E), 7.0)
    np.testing.assert_allclose(BY_NAME[name](uniform, uniform), MINIMUM[name], atol=1e-6)


@held_to(st.integers(0, 99), examples=20)
def test_no_shares_cost_less_than_uniform_ones(seed):
    x = jnp.asarray(np.random.default_rng(seed).random((3, E)), jnp.float32)
    for name, loss in BY_NAME.items():
        assert loss(x, x) >= MINIMUM[name] - 1e-6, name


def test_the_sum_of_squares_and_the_variance_are_cv_squared_in_other_units():
    x = jnp.asarray(np.random.default_rng(0).random((3, E)), jnp.float32)
    cv = losses.cv_squared(x)
    np.testing.assert_allclose(losses.sum_of_squares(x), 1 + cv, rtol=1e-5)
    np.testing.assert_allclose(losses.variance(x), cv / E**2, rtol=1e-5)


@pytest.mark.parametrize("name", BY_NAME)
def test_a_row_of_padding_adds_nothing_and_no_gradient_that_is_not_a_number(name):
    case = make("normal", lengths=(11, 0))
    loss = lambda logits: BY_NAME[name](*statistics(logits, jnp.asarray(case.real)))
    value, gradient = jit(jax.value_and_grad(loss))(jnp.asarray(case.logits))
    np.testing.assert_allclose(value, _naive(name, *_counted(case)[0]) / 2, rtol=1e-5)
    assert np.isfinite(gradient).all() and not np.any(gradient[1])


def _moves(logits, loss, steps=200):
    """The largest share of assignments that an expert has after so many steps down the loss alone."""
    real = jnp.ones(logits.shape[:2], bool)
    gradient = jax.grad(lambda logits: loss(*statistics(logits, real)))
    body = lambda _, logits: logits - 20.0 * gradient(logits)
    after = jit(lambda logits: jax.lax.fori_loop(0, steps, body, logits))(logits)
    return float(jnp.max(losses.share(statistics(after, real)[0])))


@pytest.mark.parametrize("name", BY_NAME)
def test_each_loss_alone_has_a_gradient_on_the_logits(name):
    case = make("skewed")
    loss = lambda logits: BY_NAME[name](*statistics(logits, jnp.asarray(case.real)))
    assert np.all(np.any(np.asarray(jit(jax.grad(loss))(jnp.asarray(case.logits))) != 0, axis=(1, 2)))


def test_descending_the_switch_loss_balances_the_load():
    logits = jnp.asarray(make("skewed").logits)
    before = float(jnp.max(losses.share(statistics(logits, jnp.ones((2, 11), bool))[0])))
    assert before == 0.5 and _moves(logits, losses.f_dot_p) < 0.3


def test_a_disconnected_loss_has_the_same_value_and_no_gradient():
    """The commonest silent failure: what the log shows looks right."""
    case = make("skewed")
    loss = lambda logits, cut: losses.f_dot_p(*statistics(logits, jnp.asarray(case.real), cut=cut))
    both = jit(jax.value_and_grad(loss), static_argnums=1)
    right, wrong = (both(jnp.asarray(case.logits), cut) for cut in (False, True))
    assert right[0] == wrong[0] and np.any(right[1] != 0) and not np.any(wrong[1])


def test_counting_the_first_choice_alone_is_blind_to_a_crowded_second_one():
    """Tokens prefer experts in turn, and all have expert 4 second: f of the first choices is even over the others."""
    logits = np.zeros((1, 4, E), np.float32)
    logits[0, range(4), range(4)], logits[..., 4] = 3.0, 2.9
    both, first = (statistics(jnp.asarray(logits), jnp.ones((1, 4), bool), first=first)[0] for first in (False, True))
    np.testing.assert_allclose(losses.share(both)[0], [1 / 8] * 4 + [1 / 2])
    np.testing.assert_allclose(losses.share(first)[0], [1 / 4] * 4 + [0])


@held_to(SAMPLES, examples=15)
def test_the_z_loss_is_the_mean_over_sequences_of_the_squared_log_partition(case):
    each = [np.log(np.exp(logits).sum(-1)) ** 2 for _, logits, _ in case.rows()]
    expected = np.mean([row.mean() if len(row) else 0.0 for row in each])
    np.testing.assert_allclose(_z(jnp.asarray(case.logits), jnp.asarray(case.real)), expected, rtol=1e-5)


_z = jit(losses.z_loss)


def test_the_z_loss_of_zero_logits_is_the_squared_log_of_the_experts():
    np.testing.assert_allclose(losses.z_loss(jnp.zeros((2, 3, E)), jnp.ones((2, 3), bool)), np.log(E) ** 2, rtol=1e-6)


def test_the_balancing_bias_rises_under_the_mean_load_and_falls_above():
    bias = losses.balanced_bias(jnp.full(4, 0.5), jnp.asarray([0.1, 0.25, 0.25, 0.4]), rate=0.25)
    np.testing.assert_allclose(bias, [0.75, 0.5, 0.5, 0.25])
