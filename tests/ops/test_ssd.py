"""SSD is one function in three forms, however the sequence is cut, with the gradients of the recurrence."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arch.ops.ssd import decaying_attention, ssd
from tests.ops import recurrences

BATCH, LENGTH, HEADS, CHANNELS, GROUPS, STATES = 2, 13, 6, 3, 2, 5
NAMES = ["x", "delta", "A", "B", "C", "D", "state"]
OVER_TIME = ("x", "delta", "B", "C")
RESET = jnp.zeros((BATCH, LENGTH), bool).at[0, 0].set(True).at[0, 7].set(True).at[1, 4].set(True)


def inputs(dtype=jnp.float64, length=LENGTH, seed=0):
    shapes = dict(
        x=(BATCH, length, HEADS, CHANNELS),
        delta=(BATCH, length, HEADS),
        A=(HEADS,),
        B=(BATCH, length, GROUPS, STATES),
        C=(BATCH, length, GROUPS, STATES),
        D=(HEADS,),
        state=(BATCH, HEADS, CHANNELS, STATES),
    )
    rng = np.random.default_rng(seed)
    arrays = {name: jnp.asarray(rng.standard_normal(shape), dtype) for name, shape in shapes.items()}
    return arrays | dict(delta=jax.nn.softplus(arrays["delta"]), A=-jnp.exp(arrays["A"]))


def call(arrays, **settings):
    return ssd(*(arrays[name] for name in NAMES[:-1]), state=arrays["state"], **settings)


def cut(arrays, start, stop):
    return arrays | {name: arrays[name][:, start:stop] for name in OVER_TIME}


def loop(arrays, reset):
    """The equation in numpy, one token and one head at a time."""
    arrays = {name: np.asarray(array, np.float64) for name, array in arrays.items()}
    S, y = arrays["state"].copy(), np.zeros((BATCH, LENGTH, HEADS, CHANNELS))
    for b, t, n in np.ndindex(BATCH, LENGTH, HEADS):
        x, delta, group = arrays["x"][b, t, n], arrays["delta"][b, t, n], n // (HEADS // GROUPS)
        kept = 0 if reset[b, t] else np.exp(delta * arrays["A"][n]) * S[b, n]
        S[b, n] = kept + np.outer(delta * x, arrays["B"][b, t, group])
        y[b, t, n] = S[b, n] @ arrays["C"][b, t, group] + arrays["D"][n] * x
    return y, S


@pytest.mark.parametrize("implementation", ["recurrent", "quadratic", "chunked"])
def test_values_are_those_of_the_equation(implementation):
    with jax.enable_x64():
        arrays = inputs()
        run = jax.jit(lambda arrays: call(arrays, reset=RESET, chunk=5, implementation=implementation))
        for actual, expected in zip(run(arrays), loop(arrays, np.asarray(RESET))):
            np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("settings", [dict(implementation="quadratic"), dict(chunk=1), dict(chunk=4)], ids=str)
def test_gradients_are_those_of_the_recurrence(settings):
    with jax.enable_x64():
        recurrences.assert_same_gradients(call, inputs(), reset=RESET, **settings)


@settings(max_examples=5, deadline=None)
@given(st.integers(2, 31), st.integers(1, 33), st.integers(0, 9), st.data())
def test_any_chunks_and_any_cut_equal_the_recurrence(length, chunk, seed, data):
    reset = jnp.asarray(np.random.default_rng(seed).random((BATCH, length)) < 0.1)
    how = dict(stop=data.draw(st.integers(1, length - 1)), reset=reset, chunk=chunk, over_time=OVER_TIME)
    with jax.enable_x64():
        recurrences.assert_parts_are_the_whole(call, inputs(length=length, seed=seed), **how)


@pytest.mark.slow
def test_8192_tokens_in_float32_are_near_the_recurrence_in_float64():
    with jax.enable_x64():
        arrays = inputs(length=8192)
        expected = jax.jit(lambda arrays: call(arrays, implementation="recurrent"))(arrays)
        narrow = {name: array.astype(jnp.float32) for name, array in arrays.items()}
        for actual, exact in zip(jax.jit(call)(narrow), expected):
            assert actual.dtype == jnp.float32
            # an exponent summed over a chunk of 64 tokens of rate up to max |A| and step about 1 is off by its rounding
            exponent = 64 * float(jnp.max(-arrays["A"])) * float(jnp.max(arrays["delta"]))
            scale = float(jnp.max(jnp.abs(exact)))
            np.testing.assert_allclose(actual, exact, rtol=0, atol=np.finfo(np.float32).eps * exponent * scale)


def test_strong_decays_cost_no_digits_of_what_comes_after_them():
    with jax.enable_x64():
        arrays = inputs(length=64)
        early = jnp.arange(64)[:, None] < 30
        query, key, value = arrays["C"], arrays["B"], arrays["x"]
        log_decay = jnp.where(early, -1e4, -1e-3) * arrays["delta"]
        exact, state = decaying_attention(query, key, value, log_decay, implementation="recurrent")
        narrow = [array.astype(jnp.float32) for array in (query, key, value, log_decay)]
        for actual, wide in zip(decaying_attention(*narrow), (exact, state)):
            bound = 64 * np.finfo(np.float32).eps * float(jnp.max(jnp.abs(wide)))
            np.testing.assert_allclose(actual, wide, rtol=0, atol=bound)


def test_tokens_of_delta_zero_leave_the_state_unchanged():
    with jax.enable_x64():
        arrays, lengths = inputs(), np.array([5, 11])
        valid = np.arange(LENGTH) < lengths[:, None]
        masked = arrays | dict(delta=jnp.where(valid[..., None], arrays["delta"], 0))
        run = jax.jit(lambda arrays: call(arrays, chunk=4)[1])
        S = run(masked)
        for row, length in enumerate(lengths):
            expected = run(cut(arrays, 0, length))
            np.testing.assert_allclose(S[row], expected[row], rtol=0, atol=1e-12)


def test_bfloat16_inputs_are_computed_in_float32():
    arrays = {name: array.astype(jnp.bfloat16) for name, array in inputs(jnp.float32).items()}
    run = jax.jit(lambda arrays: call(arrays, chunk=4))
    y, S = run(arrays)
    assert y.dtype == jnp.bfloat16 and S.dtype == jnp.float32
    wide = {name: array.astype(jnp.float32) for name, array in arrays.items()}
    np.testing.assert_array_equal(y, run(wide)[0].astype(jnp.bfloat16))


@pytest.mark.usefixtures("optimized")
def test_backward_keeps_a_state_a_chunk_and_not_a_token():
    length, heads, channels, states = 2048, 2, 16, 16
    shapes = [(1, length, heads, channels), (1, length, heads), (heads,), *[(1, length, 1, states)] * 2, (heads,)]
    run = lambda *arrays: jnp.sum(jnp.sin(ssd(*arrays)[0]))
    arrays = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    compiled = jax.jit(jax.grad(run, argnums=range(6))).lower(*arrays).compile()
    states_of_all_tokens = 4 * length * heads * channels * states
    assert compiled.memory_analysis().temp_size_in_bytes < states_of_all_tokens


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(chunk=0), "chunk=0 must be"),
        (dict(implementation="cuda"), "implementation='cuda' must be"),
        (dict(heads=5), "num_heads=5 must be a multiple of num_groups=2"),
    ],
)
def test_what_cannot_be_raises(settings, message):
    arrays, settings = inputs(jnp.float32), dict(settings)
    heads = settings.pop("heads", HEADS)
    unchecked = inspect.unwrap(decaying_attention)  # by the types, which know the implementations too
    with pytest.raises(ValueError, match=message):
        unchecked(arrays["C"], arrays["B"], arrays["x"][:, :, :heads], -arrays["delta"][:, :, :heads], **settings)
