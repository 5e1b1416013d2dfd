"""WKV is one average in three forms, however the sequence is cut, and no key is too large for it."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arch.ops.wkv import State, empty, wkv
from tests.ops import recurrences

BATCH, LENGTH, CHANNELS = 2, 13, 5
NAMES = ["key", "value", "decay", "bonus"]
OVER_TIME = ("key", "value")
RESET = jnp.zeros((BATCH, LENGTH), bool).at[0, 0].set(True).at[0, 7].set(True).at[1, 4].set(True)
FORMS = ["recurrent", "parallel", "chunked"]


def inputs(dtype=jnp.float64, length=LENGTH, seed=0, scale=1.0):
    rng = np.random.default_rng(seed)
    normal = lambda *shape: jnp.asarray(rng.standard_normal(shape), dtype)
    key, value = (normal(BATCH, length, CHANNELS) for _ in range(2))
    before = State(normal(BATCH, CHANNELS), jnp.exp(normal(BATCH, CHANNELS)), normal(BATCH, CHANNELS))
    decay = jnp.exp(normal(CHANNELS))
    return dict(key=scale * key, value=value, decay=decay, bonus=normal(CHANNELS), state=before)


def call(arrays, **settings):
    return wkv(*(arrays[name] for name in NAMES), state=arrays["state"], **settings)


def cut(arrays, start, stop):
    return arrays | {name: arrays[name][:, start:stop] for name in OVER_TIME}


def seen(state):
    """What is the same of all states that stand for one: e^maximum is any scale."""
    return state.numerator / state.denominator, jnp.log(state.denominator) + state.maximum


def sums(arrays, reset):
    """Equation 16 as written, in numpy: a sum over all past tokens of the segment for each token."""
    key, value, decay, bonus = (np.asarray(arrays[name], np.float64) for name in NAMES)
    start = [np.asarray(array, np.float64) for array in arrays["state"]]
    y = np.zeros(key.shape)
    for b, t, f in np.ndindex(y.shape):
        first = max([i for i in range(t + 1) if reset[b, i]], default=-1)
        numerator, denominator = np.exp(key[b, t, f] + bonus[f]) * value[b, t, f], np.exp(key[b, t, f] + bonus[f])
        for i in range(max(first, 0), t):
            weight = np.exp(key[b, i, f] - (t - 1 - i) * decay[f])
            numerator, denominator = numerator + weight * value[b, i, f], denominator + weight
        if first < 0:
            weight = np.exp(start[2][b, f] - t * decay[f])
            numerator, denominator = numerator + weight * start[0][b, f], denominator + weight * start[1][b, f]
        y[b, t, f] = numerator / denominator
    return y


@pytest.mark.parametrize("implementation", FORMS)
def test_values_are_those_of_the_equation(implementation):
    with jax.enable_x64():
        arrays = inputs()
        y, _ = jax.jit(lambda arrays: call(arrays, reset=RESET, chunk=5, implementation=implementation))(arrays)
        np.testing.assert_allclose(y, sums(arrays, np.asarray(RESET)), rtol=0, atol=1e-12)


@pytest.mark.parametrize("settings", [dict(implementation="parallel"), dict(chunk=4)], ids=str)
def test_gradients_are_those_of_the_recurrence(settings):
    with jax.enable_x64():
        recurrences.assert_same_gradients(call, inputs(), reset=RESET, seen=seen, **settings)


def test_gradients_are_those_of_finite_differences():
    with jax.enable_x64():
        arrays = inputs(length=5)
        run = jax.jit(lambda arrays: jnp.sum(jnp.sin(call(arrays, chunk=2)[0])))
        gradient = jax.grad(run)(arrays)
        for name in NAMES:
            change = jnp.cos(jnp.arange(arrays[name].size, dtype=jnp.float64)).reshape(arrays[name].shape)
            ends = [run(arrays | {name: arrays[name] + sign * 1e-6 * change}) for sign in (1, -1)]
            assert float(jnp.vdot(gradient[name], change)) == pytest.approx(float(ends[0] - ends[1]) / 2e-6, rel=1e-6)


@settings(max_examples=4, deadline=None)
@given(st.integers(2, 31), st.integers(1, 33), st.integers(0, 9), st.data())
def test_any_chunks_and_any_cut_equal_the_recurrence(length, chunk, seed, data):
    reset = jnp.asarray(np.random.default_rng(seed).random((BATCH, length)) < 0.1)
    how = dict(stop=data.draw(st.integers(1, length - 1)), reset=reset, chunk=chunk, over_time=OVER_TIME, seen=seen)
    with jax.enable_x64():
        recurrences.assert_parts_are_the_whole(call, inputs(length=length, seed=seed), **how)


@pytest.mark.parametrize("implementation", FORMS)
def test_keys_that_no_float_could_exponentiate_give_the_same_in_float32(implementation):
    arrays = inputs(jnp.float32, scale=150.0)
    assert jnp.isinf(jnp.exp(arrays["key"])).any()
    expected = sums(arrays, np.zeros((BATCH, LENGTH), bool))
    y, _ = jax.jit(lambda arrays: call(arrays, chunk=4, implementation=implementation))(arrays)
    eps = np.finfo(np.float32).eps * np.abs(arrays["key"]).max()  # an exponent's own rounding
    np.testing.assert_allclose(y, expected, rtol=0, atol=eps * np.abs(expected).max())


@pytest.mark.parametrize("implementation", FORMS)
def test_tokens_that_are_not_valid_leave_the_state_unchanged(implementation):
    with jax.enable_x64():
        arrays, lengths = inputs() | dict(state=empty(BATCH, CHANNELS)), np.array([0, 11])
        valid = jnp.arange(LENGTH) < lengths[:, None]
        _, S = jax.jit(lambda arrays: call(arrays, valid=valid, chunk=4, implementation=implementation))(arrays)
        _, expected = jax.jit(lambda arrays: call(cut(arrays, 0, 11), implementation="recurrent"))(arrays)
        for actual, full, none in zip(S, expected, empty(BATCH, CHANNELS)):
            np.testing.assert_allclose(actual[1], full[1], rtol=0, atol=1e-12)
            np.testing.assert_allclose(actual[0], none[0], rtol=1e-6)


@pytest.mark.parametrize("implementation", FORMS)
def test_a_reset_at_a_token_that_is_not_valid_leaves_the_state_unchanged(implementation):
    with jax.enable_x64():
        arrays, valid = inputs(), jnp.ones((BATCH, LENGTH), bool).at[0, 9:].set(False)
        state = jax.jit(lambda reset: call(arrays, reset=reset, valid=valid, chunk=4, implementation=implementation)[1])
        for place in (9, LENGTH - 1):
            for actual, expected in zip(state(RESET.at[0, place].set(True)), state(RESET), strict=True):
                np.testing.assert_array_equal(actual, expected)


@pytest.mark.parametrize(
    ("settings", "message"),
    [(dict(chunk=0), "chunk=0 must be"), (dict(implementation="cuda"), "implementation='cuda' must be")],
)
def test_an_unknown_setting_raises(settings, message):
    arrays = inputs(jnp.float32)
    with pytest.raises(ValueError, match=message):
        inspect.unwrap(wkv)(*(arrays[name] for name in NAMES), **settings)  # by the types unchecked
