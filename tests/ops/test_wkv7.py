"""WKV of RWKV-7 is one function in three forms, however the sequence is cut, with the gradients of the recurrence."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arch.ops.linear_attention.recurrence import linear_attention
from arch.ops.wkv7 import wkv7
from tests.ops import recurrences

BATCH, LENGTH, HEADS, CHANNELS, VALUES = 2, 13, 3, 5, 7
NAMES = ["receptance", "log_decay", "key", "value", "removal", "rate", "state"]
OVER_TIME = NAMES[:-1]
RESET = jnp.zeros((BATCH, LENGTH), bool).at[0, 0].set(True).at[0, 7].set(True).at[1, 4].set(True)


def inputs(dtype=jnp.float64, length=LENGTH, seed=0):
    rng = np.random.default_rng(seed)
    normal = lambda *shape: jnp.asarray(rng.standard_normal(shape), dtype)
    channels = (BATCH, length, HEADS, CHANNELS)
    removal = normal(*channels)
    return dict(
        receptance=normal(*channels),
        log_decay=-jax.nn.softplus(normal(*channels)),
        key=normal(*channels),
        value=normal(*channels[:3], VALUES),
        removal=removal / jnp.linalg.norm(removal, axis=-1, keepdims=True),
        rate=jax.nn.sigmoid(normal(*channels)),
        state=normal(BATCH, HEADS, CHANNELS, VALUES),
    )


def call(arrays, **settings):
    return wkv7(*(arrays[name] for name in OVER_TIME), state=arrays["state"], **settings)


def loop(arrays, reset):
    """Equation 17 in numpy, a matrix a token: S_t = S_{t-1} (diag(w_t) - c_t^T (a_t * c_t)) + v_t^T k_t."""
    arrays = {name: np.asarray(array, np.float64) for name, array in arrays.items()}
    S, y = arrays["state"].swapaxes(-1, -2).copy(), np.zeros(arrays["value"].shape)
    for b, t, n in np.ndindex(BATCH, LENGTH, HEADS):
        r, log_decay, k, v, c, a = (arrays[name][b, t, n] for name in OVER_TIME)
        kept = 0 if reset[b, t] else S[b, n] @ (np.diag(np.exp(log_decay)) - np.outer(c, a * c))
        S[b, n] = kept + np.outer(v, k)
        y[b, t, n] = S[b, n] @ r
    return y, S.swapaxes(-1, -2)


@pytest.mark.parametrize("implementation", ["recurrent", "parallel", "chunked"])
def test_values_are_those_of_the_equation(implementation):
    with jax.enable_x64():
        arrays = inputs()
        run = jax.jit(lambda arrays: call(arrays, reset=RESET, chunk=4, implementation=implementation))
        for actual, expected in zip(run(arrays), loop(arrays, np.asarray(RESET))):
            np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("settings", [dict(implementation="parallel"), dict(chunk=4)], ids=str)
def test_gradients_are_those_of_the_recurrence(settings):
    with jax.enable_x64():
        recurrences.assert_same_gradients(call, inputs(), reset=RESET, **settings)


@settings(max_examples=4, deadline=None)
@given(st.integers(2, 31), st.sampled_from([1, 2, 8, 32]), st.integers(0, 9), st.data())
def test_any_chunks_and_any_cut_equal_the_recurrence(length, chunk, seed, data):
    reset = jnp.asarray(np.random.default_rng(seed).random((BATCH, length)) < 0.1)
    how = dict(stop=data.draw(st.integers(1, length - 1)), reset=reset, chunk=chunk, over_time=OVER_TIME)
    with jax.enable_x64():
        recurrences.assert_parts_are_the_whole(call, inputs(length=length, seed=seed), **how)


@pytest.mark.parametrize("scale", [1.0, 1e4], ids=["mild", "strong"])
def test_float32_is_near_the_recurrence_in_float64_however_strong_the_decays(scale):
    with jax.enable_x64():
        arrays = inputs(length=64)
        arrays["log_decay"] = jnp.where(jnp.arange(64)[:, None, None] < 30, scale, 1) * arrays["log_decay"]
        exact, _ = call(arrays, implementation="recurrent")
        narrow = {name: array.astype(jnp.float32) for name, array in arrays.items()}
        actual, _ = jax.jit(lambda arrays: call(arrays, chunk=64))(narrow)
        largest = float(jnp.max(jnp.abs(exact)))
        np.testing.assert_allclose(actual, exact, rtol=0, atol=64 * np.finfo(np.float32).eps * largest)


@pytest.mark.slow
def test_8192_tokens_in_float32_are_near_the_recurrence_in_float64():
    with jax.enable_x64():
        arrays = inputs(length=8192)
        exact, _ = jax.jit(lambda arrays: call(arrays, implementation="recurrent"))(arrays)
        narrow = {name: array.astype(jnp.float32) for name, array in arrays.items()}
        actual, _ = jax.jit(call)(narrow)
        largest = float(jnp.max(jnp.abs(exact)))
        np.testing.assert_allclose(actual, exact, rtol=0, atol=64 * np.finfo(np.float32).eps * largest)


def test_tokens_that_are_not_valid_leave_the_state_unchanged():
    with jax.enable_x64():
        arrays, valid = inputs(), jnp.broadcast_to(jnp.arange(LENGTH) < 6, (BATCH, LENGTH))
        first = {name: array if name == "state" else array[:, :6] for name, array in arrays.items()}
        run = jax.jit(lambda arrays, valid: call(arrays, chunk=4, valid=valid)[1])
        np.testing.assert_allclose(run(arrays, valid), run(first, None), rtol=0, atol=1e-12)


def test_without_removal_it_is_linear_attention_with_decays_of_channels():
    with jax.enable_x64():
        arrays = inputs()
        arrays["rate"] = jnp.zeros_like(arrays["rate"])
        plain = [arrays[name] for name in ("receptance", "key", "value", "log_decay")]
        expected = linear_attention(*plain, state=arrays["state"], reset=RESET)
        for actual, value in zip(call(arrays, reset=RESET, chunk=4), expected):
            np.testing.assert_allclose(actual, value, rtol=0, atol=1e-12)


@pytest.mark.usefixtures("optimized")
def test_backward_keeps_a_state_a_chunk_and_not_a_token():
    length, channels = 2048, 16
    run = lambda *arrays: jnp.sum(jnp.sin(wkv7(*arrays)[0]))
    arrays = [jax.ShapeDtypeStruct((1, length, 2, channels), jnp.float32)] * 6
    compiled = jax.jit(jax.grad(run, argnums=range(6))).lower(*arrays).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 4 * length * 2 * channels**2


@pytest.mark.parametrize(
    ("settings", "message"),
    [(dict(chunk=6), "chunk=6 must be a power of two"), (dict(implementation="cuda"), "implementation='cuda' must be")],
)
def test_what_cannot_be_raises(settings, message):
    arrays = inputs(jnp.float32)
    with pytest.raises(ValueError, match=message):
        inspect.unwrap(wkv7)(*(arrays[name] for name in OVER_TIME), **settings)  # by the types unchecked
