"""S4D is one function in three forms: a convolution, chunks, a recurrence, with the gradients of the recurrence."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arch.ops.s4d import initial, s4d
from tests.ops import recurrences

BATCH, LENGTH, CHANNELS, STATES = 2, 13, 5, 3
NAMES = ["x", "delta", "A", "C", "D", "state"]
RESET = jnp.zeros((BATCH, LENGTH), bool).at[0, 0].set(True).at[0, 7].set(True).at[1, 4].set(True)
LONG = 8192


def inputs(length=LENGTH, seed=0):
    rng = np.random.default_rng(seed)
    normal = lambda *shape: jnp.asarray(rng.standard_normal(shape))
    return dict(
        x=normal(BATCH, length, CHANNELS),
        delta=jnp.exp(normal(CHANNELS) - 2),
        rate=normal(CHANNELS, STATES),
        frequency=5 * normal(CHANNELS, STATES),
        C=normal(2, CHANNELS, STATES),
        D=normal(CHANNELS),
        state=normal(2, BATCH, CHANNELS, STATES),
    )


def call(arrays, **settings):
    """With complex arguments made of real ones, and the state given back as two real arrays."""
    both = lambda pair: None if pair is None else jax.lax.complex(*pair)
    A = jax.lax.complex(-jnp.exp(arrays["rate"]), arrays["frequency"])
    y, h = s4d(
        arrays["x"], arrays["delta"], A, both(arrays["C"]), arrays["D"], state=both(arrays["state"]), **settings
    )
    return y, jnp.stack([h.real, h.imag])


def loop(arrays, reset):
    """The equation in numpy, token by token, of all states and their conjugates, with the integral done by steps."""
    arrays = {name: np.asarray(array) for name, array in arrays.items()}
    C, h = (pair[0] + 1j * pair[1] for pair in (arrays["C"], arrays["state"]))
    A, delta = -np.exp(arrays["rate"]) + 1j * arrays["frequency"], arrays["delta"][:, None]
    A, C, h = (np.concatenate([half, half.conj()], axis=-1) for half in (A, C, h))
    y, steps = np.zeros(arrays["x"].shape), (np.arange(20000) + 0.5) / 20000
    write = np.mean(np.exp(delta[..., None] * A[..., None] * steps), axis=-1) * delta  # the input held for a step
    for t in range(LENGTH):
        kept = np.where(reset[:, t, None, None], 0, np.exp(delta * A) * h)
        h = kept + write * arrays["x"][:, t, :, None]
        y[:, t] = np.sum(C * h, axis=-1).real + arrays["D"] * arrays["x"][:, t]
    return y, np.stack([h.real, h.imag])[..., :STATES]


@pytest.mark.parametrize("implementation", ["recurrent", "chunked"])
def test_values_are_those_of_the_equation(implementation):
    with jax.enable_x64():
        arrays = inputs()
        run = jax.jit(lambda arrays: call(arrays, reset=RESET, chunk=5, implementation=implementation))
        for actual, expected in zip(run(arrays), loop(arrays, np.asarray(RESET))):
            np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-7)  # the mean's own error is 2e-9


@settings(max_examples=4, deadline=None)
@given(st.integers(1, 40), st.integers(0, 9))
def test_the_convolution_is_the_recurrence(length, seed):
    with jax.enable_x64():
        arrays = inputs(length, seed) | dict(state=None)
        recurrent = call(arrays, implementation="recurrent")
        for actual, expected in zip(call(arrays, implementation="convolution"), recurrent):
            np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-10)


@pytest.mark.slow
def test_8192_tokens_in_float32_are_near_the_recurrence_in_float64():
    with jax.enable_x64():
        arrays = inputs(LONG) | dict(state=None)
        exact, _ = jax.jit(lambda arrays: call(arrays, implementation="recurrent"))(arrays)
        narrow = {name: None if array is None else array.astype(jnp.float32) for name, array in arrays.items()}
        for implementation in ("convolution", "chunked"):
            actual, _ = jax.jit(lambda arrays: call(arrays, implementation=implementation))(narrow)
            # transforms of 2 x 8192 points round 14 times; the phase of a state is off by its rounding
            bound = 14 * 8 * np.finfo(np.float32).eps * float(jnp.max(jnp.abs(exact)))
            np.testing.assert_allclose(actual, exact, rtol=0, atol=bound)


def test_gradients_of_chunks_are_those_of_the_recurrence():
    with jax.enable_x64():
        recurrences.assert_same_gradients(call, inputs(), reset=RESET, chunk=4)


def test_gradients_of_the_convolution_are_those_of_the_recurrence():
    with jax.enable_x64():
        arrays = inputs() | dict(state=None)
        recurrences.assert_same_gradients(call, arrays, reset=None, implementation="convolution")


@settings(max_examples=4, deadline=None)
@given(st.integers(2, 31), st.integers(1, 33), st.integers(0, 9), st.data())
def test_any_chunks_and_any_cut_equal_the_recurrence(length, chunk, seed, data):
    reset = jnp.asarray(np.random.default_rng(seed).random((BATCH, length)) < 0.1)
    how = dict(stop=data.draw(st.integers(1, length - 1)), reset=reset, chunk=chunk, over_time=("x",))
    with jax.enable_x64():
        recurrences.assert_parts_are_the_whole(call, inputs(length=length, seed=seed), **how)


@pytest.mark.parametrize("implementation", ["chunked", "recurrent"])
def test_tokens_that_are_not_valid_leave_the_state_unchanged(implementation):
    with jax.enable_x64():
        arrays, lengths = inputs(), np.array([0, 9])
        valid = jnp.asarray(np.arange(LENGTH) < lengths[:, None])
        how = dict(chunk=4, implementation=implementation)
        _, state = call(arrays, valid=valid, reset=RESET, **how)
        np.testing.assert_array_equal(state[:, 0], arrays["state"][:, 0])
        _, short = call(arrays | dict(x=arrays["x"][:, :9]), reset=RESET[:, :9], **how)
        np.testing.assert_allclose(state[:, 1], short[:, 1], rtol=0, atol=1e-12)


@pytest.mark.usefixtures("optimized")
def test_no_array_has_all_tokens_and_all_states():
    shapes = [(1, LONG, 8), (8,), (8, 32), (8, 32), (8,)]
    types = [jnp.float32, jnp.float32, jnp.complex64, jnp.complex64, jnp.float32]
    arrays = [jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in zip(shapes, types)]
    run = lambda *arrays: jnp.sum(jnp.sin(s4d(*arrays)[0]))
    compiled = jax.jit(jax.grad(run, argnums=(0, 1, 4))).lower(*arrays).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 8 * LONG * 8 * 32 / 2


def test_initial_rates_are_those_of_the_paper():
    np.testing.assert_allclose(initial("lin", 6), -0.5 + 1j * np.pi * np.arange(3), rtol=1e-6)
    np.testing.assert_allclose(initial("inv", 6), -0.5 + 1j * 6 / np.pi * np.array([5, 1, 1 / 5]), rtol=1e-6)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(chunk=0), "chunk=0 must be"),
        (dict(implementation="cuda"), "implementation='cuda' must be"),
        (dict(implementation="convolution"), "implementation='convolution' must have neither state nor reset"),
    ],
)
def test_what_cannot_be_raises(settings, message):
    arrays = inputs()
    A, C, state = (jax.lax.complex(*arrays[name]) if name != "A" else jax.lax.complex(arrays["rate"], arrays["rate"])
                   for name in ("A", "C", "state"))  # fmt: skip
    with pytest.raises(ValueError, match=message):
        inspect.unwrap(s4d)(arrays["x"], arrays["delta"], A, C, arrays["D"], state=state, **settings)
