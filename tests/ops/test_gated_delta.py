"""The gated delta rule is one function in three forms, however the sequence is cut, with the recurrence's gradients."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arch.ops.gated_delta import gated_delta
from tests.ops import recurrences

BATCH, LENGTH, HEADS, CHANNELS, GROUPS, STATES = 2, 13, 4, 3, 2, 5
NAMES = ["query", "key", "value", "log_decay", "beta", "state"]
RESET = jnp.zeros((BATCH, LENGTH), bool).at[0, 0].set(True).at[0, 7].set(True).at[1, 4].set(True)


def inputs(dtype=jnp.float64, length=LENGTH, seed=0):
    rng = np.random.default_rng(seed)
    normal = lambda *shape: jnp.asarray(rng.standard_normal(shape), dtype)
    key = normal(BATCH, length, GROUPS, STATES)
    return dict(
        query=normal(BATCH, length, GROUPS, STATES),
        key=key / jnp.linalg.norm(key, axis=-1, keepdims=True),
        value=normal(BATCH, length, HEADS, CHANNELS),
        log_decay=-jax.nn.softplus(normal(BATCH, length, HEADS)),
        beta=jax.nn.sigmoid(normal(BATCH, length, HEADS)),
        state=normal(BATCH, HEADS, CHANNELS, STATES),
    )


def call(arrays, **settings):
    return gated_delta(*(arrays[name] for name in NAMES[:-1]), state=arrays["state"], **settings)


def cut(arrays, start, stop):
    return {name: array if name == "state" else array[:, start:stop] for name, array in arrays.items()}


def loop(arrays, reset):
    """Equation 10 in numpy, a matrix a token: S_t = S_{t-1} a_t (I - beta_t k_t k_t^T) + beta_t v_t k_t^T."""
    arrays = {name: np.asarray(array, np.float64) for name, array in arrays.items()}
    S, y = arrays["state"].copy(), np.zeros((BATCH, LENGTH, HEADS, CHANNELS))
    for b, t, n in np.ndindex(BATCH, LENGTH, HEADS):
        group, beta = n // (HEADS // GROUPS), arrays["beta"][b, t, n]
        key, decay = arrays["key"][b, t, group], 0 if reset[b, t] else np.exp(arrays["log_decay"][b, t, n])
        kept = decay * S[b, n] @ (np.eye(STATES) - beta * np.outer(key, key))
        S[b, n] = kept + beta * np.outer(arrays["value"][b, t, n], key)
        y[b, t, n] = S[b, n] @ arrays["query"][b, t, group]
    return y, S


@pytest.mark.parametrize("implementation", ["recurrent", "quadratic", "chunked"])
def test_values_are_those_of_the_equation(implementation):
    with jax.enable_x64():
        arrays = inputs()
        run = jax.jit(lambda arrays: call(arrays, reset=RESET, chunk=5, implementation=implementation))
        for actual, expected in zip(run(arrays), loop(arrays, np.asarray(RESET))):
            np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("settings", [dict(implementation="quadratic"), dict(chunk=4)], ids=str)
def test_gradients_are_those_of_the_recurrence(settings):
    with jax.enable_x64():
        recurrences.assert_same_gradients(call, inputs(), reset=RESET, **settings)


@settings(max_examples=4, deadline=None)
@given(st.integers(2, 31), st.integers(1, 33), st.integers(0, 9), st.data())
def test_any_chunks_and_any_cut_equal_the_recurrence(length, chunk, seed, data):
    reset = jnp.asarray(np.random.default_rng(seed).random((BATCH, length)) < 0.1)
    how = dict(stop=data.draw(st.integers(1, length - 1)), reset=reset, chunk=chunk, over_time=NAMES[:-1])
    with jax.enable_x64():
        recurrences.assert_parts_are_the_whole(call, inputs(length=length, seed=seed), **how)


def test_tokens_of_beta_and_log_decay_zero_leave_the_state_unchanged():
    with jax.enable_x64():
        arrays, still = inputs(), jnp.arange(LENGTH)[:, None] >= 6
        masked = arrays | {name: jnp.where(still, 0, arrays[name]) for name in ("beta", "log_decay")}
        run = jax.jit(lambda arrays: call(arrays, chunk=4)[1])
        np.testing.assert_allclose(run(masked), run(cut(arrays, 0, 6)), rtol=0, atol=1e-12)


def test_a_second_value_at_a_key_replaces_the_first():
    arrays = inputs(jnp.float32) | dict(state=None)
    key = jnp.broadcast_to(arrays["key"][:, :1], arrays["key"].shape)
    same = arrays | dict(key=key, query=key, beta=jnp.ones_like(arrays["beta"]))
    y, _ = call(same, chunk=4)
    np.testing.assert_allclose(y, arrays["value"], atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(chunk=0), "chunk=0 must be"),
        (dict(implementation="cuda"), "implementation='cuda' must be"),
        (dict(heads=3), "num_heads=3 must be a multiple of num_groups=2"),
    ],
)
def test_what_cannot_be_raises(settings, message):
    arrays, settings = inputs(jnp.float32), dict(settings)
    heads = settings.pop("heads", HEADS)
    narrow = arrays | {name: arrays[name][:, :, :heads] for name in ("value", "log_decay", "beta")}
    with pytest.raises(ValueError, match=message):
        inspect.unwrap(gated_delta)(*(narrow[name] for name in NAMES[:-1]), **settings)  # by the types unchecked
