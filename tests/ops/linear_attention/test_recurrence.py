"""Linear attention is one function in three forms, whatever decays, with the gradients of the equation as written."""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arch.ops.linear_attention.recurrence import linear_attention, products

BATCH, LENGTH, HEADS, CHANNELS, VALUES = 2, 37, 2, 3, 5
DECAYS = ("none", "fixed", "head", "channel")
NAMES = ("query", "key", "value", "log_decay", "state")


def inputs(decay, dtype=jnp.float64, length=LENGTH, seed=0):
    """Normal values, and log decays that are mild, strong or none."""
    rng = np.random.default_rng(seed)
    heads = (BATCH, length, HEADS)
    shape = {"fixed": (1, 1, HEADS, 1), "head": (*heads, 1), "channel": (*heads, CHANNELS)}.get(decay, ())
    arrays = {name: rng.standard_normal((*heads, CHANNELS)) for name in ("query", "key")}
    arrays |= {"value": rng.standard_normal((*heads, VALUES))}
    arrays |= {"state": rng.standard_normal((BATCH, HEADS, CHANNELS, VALUES))}
    scale = rng.choice([0.0, 0.01, 1.0, 30.0], shape) if decay == "channel" else rng.choice([0.01, 0.5], shape)
    arrays = {name: jnp.asarray(array, dtype) for name, array in arrays.items()}
    return arrays | {"log_decay": None if decay == "none" else jnp.asarray(-scale * rng.random(shape), dtype)}


def borders(length=LENGTH, seed=0):
    """Where segments start, and which tokens are valid: those of a row first."""
    rng = np.random.default_rng(seed)
    reset = rng.random((BATCH, length)) < 0.1
    valid = np.arange(length) < rng.integers(0, length + 1, (BATCH, 1))
    return jnp.asarray(reset), jnp.asarray(valid)


def call(arrays, reset=None, valid=None, **choices):
    return linear_attention(
        *(arrays[name] for name in NAMES[:-1]), state=arrays["state"], reset=reset, valid=valid, **choices
    )


@functools.cache
def compiled(**choices):
    return jax.jit(lambda arrays, reset, valid: call(arrays, reset, valid, **choices))


def loop(arrays, reset, valid):
    """The equation in numpy, one token and one head at a time, in float64."""
    query, key, value, log_decay, state = (
        arrays[n] if arrays[n] is None else np.asarray(arrays[n], np.float64) for n in NAMES
    )
    reset, valid = np.asarray(reset), np.asarray(valid)  # of JAX, each element would be a program that runs
    state, out = state.copy(), np.zeros(value.shape)
    decay = np.ones(query.shape) if log_decay is None else np.broadcast_to(np.exp(log_decay), query.shape)
    for b, t, n in np.ndindex(query.shape[:3]):
        if valid[b, t]:
            kept = 0 if reset[b, t] else decay[b, t, n][:, None] * state[b, n]
            state[b, n] = kept + np.outer(key[b, t, n], value[b, t, n])
        out[b, t, n] = query[b, t, n] @ state[b, n]
    return np.where(np.asarray(valid)[..., None, None], out, 0), state


def masked(results, valid):
    out, state = results
    return np.where(np.asarray(valid)[..., None, None], out, 0), np.asarray(state)


def hold(actual, expected, rtol=0.0, atol=1e-10):
    for a, e in zip(actual, expected, strict=True):
        np.testing.assert_allclose(a, e, rtol=rtol, atol=atol)


FORMS = (dict(implementation="recurrent"), dict(implementation="parallel"), dict(chunk=8))


@pytest.mark.parametrize("decay", DECAYS)
@pytest.mark.parametrize("form", FORMS, ids=str)
def test_values_are_those_of_the_equation(form, decay):
    with jax.enable_x64():
        for seed in range(3):
            arrays, (reset, valid) = inputs(decay, seed=seed), borders(seed=seed)
            hold(masked(compiled(**form)(arrays, reset, valid), valid), loop(arrays, reset, valid))


@functools.cache
def differentiated(**choices):
    """Gradients of a function of all that counts in the results, in which no two elements weigh the same."""

    def objective(arrays, reset, valid):
        out, state = call(arrays, reset, valid, **choices)
        weigh = lambda x: jnp.sum(jnp.sin(jnp.arange(x.size, dtype=x.dtype).reshape(x.shape)) * x)
        return weigh(jnp.where(valid[..., None, None], out, 0)) + weigh(state)

    return jax.jit(jax.grad(objective))


@pytest.mark.parametrize("decay", ["none", "head", "channel"])
def test_gradients_are_those_of_the_recurrence(decay):
    with jax.enable_x64():
        arrays, (reset, valid) = inputs(decay), borders()
        expected = differentiated(implementation="recurrent")(arrays, reset, valid)
        actual = differentiated(chunk=8)(arrays, reset, valid)
        for name in expected.keys() - ({"log_decay"} if decay == "none" else {}):
            assert np.any(np.asarray(expected[name]) != 0), name
            np.testing.assert_allclose(actual[name], expected[name], rtol=0, atol=1e-10, err_msg=name)


@settings(max_examples=8, deadline=None)
@given(st.integers(1, 70), st.sampled_from([1, 4, 16, 64]), st.sampled_from(DECAYS), st.integers(0, 99))
@pytest.mark.slow
def test_any_length_in_any_chunks_is_the_recurrence(length, chunk, decay, seed):
    with jax.enable_x64():
        arrays, (reset, valid) = inputs(decay, length=length, seed=seed), borders(length, seed)
        hold(masked(compiled(chunk=chunk)(arrays, reset, valid), valid), loop(arrays, reset, valid))


def rounding(arrays, reset, valid):
    """What float32 may be off by: its epsilon, times the terms of the longest sum, times the sum of magnitudes."""
    magnitudes = loop({n: a if a is None or n == "log_decay" else jnp.abs(a) for n, a in arrays.items()}, reset, valid)
    terms = arrays["query"].shape[1] + CHANNELS
    return [np.finfo(np.float32).eps * terms * np.maximum(m, 1e-30) for m in magnitudes]


@pytest.mark.parametrize("decay", ["head", "channel"])
def test_in_float32_decays_between_strong_ones_are_as_exact_as_others(decay):
    arrays, (reset, valid) = inputs(decay, jnp.float32), borders()
    rng = np.random.default_rng(4)
    strong = rng.choice([0.0, -0.01, -2000.0, -np.inf], arrays["log_decay"].shape, p=[0.3, 0.4, 0.2, 0.1])
    arrays["log_decay"] = jnp.asarray(strong, jnp.float32)
    actual = masked(compiled(chunk=32)(arrays, reset, valid), valid)
    for a, e, bound in zip(actual, loop(arrays, reset, valid), rounding(arrays, reset, valid)):
        assert np.all(np.abs(a - e) <= bound)


@pytest.mark.parametrize("decay", ["head", "channel"])
def test_gradients_are_finite_where_all_is_forgotten(decay):
    arrays, (reset, valid) = inputs(decay, jnp.float32), borders()
    arrays["log_decay"] = jnp.full_like(arrays["log_decay"], -jnp.inf)
    gradients = differentiated(chunk=8)(arrays, reset, valid)
    assert all(np.isfinite(gradient).all() for gradient in gradients.values())


@pytest.mark.parametrize("decay", ["none", "channel"])
def test_a_row_in_parts_that_hand_on_the_state_is_the_row(decay):
    with jax.enable_x64():
        arrays, (reset, valid) = inputs(decay), (borders()[0], jnp.ones((BATCH, LENGTH), bool))
        whole, last = compiled(chunk=8)(arrays, reset, valid)
        parts, state = [], arrays["state"]
        for start, stop in ((0, 1), (1, 20), (20, LENGTH)):
            part = {n: a if a is None else a[:, start:stop] for n, a in arrays.items()} | {"state": state}
            out, state = compiled(chunk=8)(part, reset[:, start:stop], valid[:, start:stop])
            parts.append(out)
        hold((np.concatenate(parts, axis=1), state), (whole, last))


def test_no_state_is_a_state_of_zeros():
    arrays = inputs("head", jnp.float32)
    zeros = arrays | {"state": jnp.zeros_like(arrays["state"])}
    hold(call(arrays | {"state": None}), call(zeros), atol=0)


def test_bfloat16_is_computed_in_float32():
    arrays = {name: array.astype(jnp.bfloat16) for name, array in inputs("channel", jnp.float32).items()}
    out, state = call(arrays)
    exact, exact_state = call({name: array.astype(jnp.float32) for name, array in arrays.items()})
    assert out.dtype == jnp.bfloat16 and state.dtype == jnp.float32
    np.testing.assert_array_equal(out, exact.astype(jnp.bfloat16))
    np.testing.assert_array_equal(state, exact_state)


@pytest.mark.usefixtures("optimized")
@pytest.mark.parametrize(
    "decay", ["none", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("head", "channel"))]
)
def test_no_state_a_token_is_kept(decay):
    length, channels = 4096, 32
    shape = (1, length, 1, channels)
    arrays = [jax.ShapeDtypeStruct(shape, jnp.float32)] * 3
    if decay != "none":
        arrays += [jax.ShapeDtypeStruct((*shape[:3], 1 if decay == "head" else channels), jnp.float32)]
    objective = lambda *arrays: jnp.sum(linear_attention(*arrays)[0])
    compiled = jax.jit(jax.grad(objective, argnums=range(len(arrays)))).lower(*arrays).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 4 * length * channels**2 / 3


@pytest.mark.slow
@pytest.mark.usefixtures("optimized")
@pytest.mark.parametrize("decay", DECAYS)
def test_a_row_of_8192_tokens_is_the_recurrence(decay):
    length = 8192
    with jax.enable_x64():
        arrays, (reset, _) = inputs(decay, length=length), borders(length)
        valid = jnp.ones((BATCH, length), bool)
        expected = compiled(implementation="recurrent")(arrays, reset, valid)
        hold(compiled(chunk=64)(arrays, reset, valid), expected)
        by_token, by_chunk = (differentiated(**form)(arrays, reset, valid) for form in (FORMS[0], dict(chunk=64)))
        for name in by_token.keys() - ({"log_decay"} if decay == "none" else {}):
            np.testing.assert_allclose(by_chunk[name], by_token[name], rtol=1e-10, atol=1e-10, err_msg=name)
    arrays = inputs(decay, jnp.float32, length)
    actual = compiled(chunk=64)(arrays, reset, valid)
    for a, e, bound in zip(actual, loop(arrays, reset, valid), rounding(arrays, reset, valid)):
        assert np.all(np.abs(a - e) <= bound)


@pytest.mark.parametrize(
    "decay, executed", [("none", 64 * 64 * 10), ("head", (16 * 64 + 24 * 64) * 10), ("channel", (64 + 63 * 32) * 10)]
)
def test_products_are_those_of_the_recurrence_and_of_the_chunks(decay, executed):
    with_the_state = 3 * 64 * 3 * 7
    assert products(128, 3, 7, decay=decay) == (2 * 128 * 3 * 7, 2 * executed + with_the_state)


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        (dict(chunk=0), "chunk=0 must be"),
        (dict(chunk=6), "chunk=6 must be"),
        (dict(implementation="x"), "implementation='x' must be"),
    ],
)
def test_an_unknown_choice_raises(choices, message):
    arrays, unchecked = inputs("none", jnp.float32), inspect.unwrap(linear_attention)
    with pytest.raises(ValueError, match=message):
        unchecked(*(arrays[name] for name in NAMES[:3]), **choices)
