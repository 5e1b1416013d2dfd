"""The linear recurrence is its equation in three forms, with the gradients of the equation."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arch.ops.linear_recurrence import linear_recurrence

BATCH, LENGTH, CHANNELS = 2, 13, 5
FORMS = ["recurrent", "parallel", "chunked"]


def inputs(dtype=jnp.float64, length=LENGTH, seed=0):
    rng = np.random.default_rng(seed)
    normal = lambda *shape: jnp.asarray(rng.standard_normal(shape), dtype)
    decay = jax.nn.sigmoid(normal(BATCH, length, CHANNELS)).at[1, 4 % length].set(0)
    return decay, normal(BATCH, length, CHANNELS), normal(BATCH, CHANNELS)


def equation(decay, x, state):
    def step(h, token):
        h = token[0] * h + token[1]
        return h, h

    _, out = jax.lax.scan(step, state, (decay.swapaxes(0, 1), x.swapaxes(0, 1)))
    return out.swapaxes(0, 1)


@pytest.mark.parametrize("implementation", FORMS)
def test_values_and_gradients_are_those_of_the_equation(implementation):
    def total(run, *arrays):
        out = run(*arrays)
        return jnp.sum(jnp.sin(jnp.arange(out.size, dtype=out.dtype).reshape(out.shape)) * jnp.sin(out)), out

    ours = lambda decay, x, state: linear_recurrence(decay, x, state=state, chunk=5, implementation=implementation)[0]
    def results(run, arrays):
        return jax.jit(jax.grad(lambda *arrays: total(run, *arrays), argnums=(0, 1, 2), has_aux=True))(*arrays)

    with jax.enable_x64():
        arrays = inputs()
        pairs = zip(jax.tree.leaves(results(ours, arrays)), jax.tree.leaves(results(equation, arrays)), strict=True)
        for actual, exact in pairs:
            assert jnp.any(exact != 0)
            np.testing.assert_allclose(actual, exact, rtol=0, atol=1e-12)


@settings(max_examples=4, deadline=None)
@given(st.integers(2, 31), st.integers(1, 33), st.integers(0, 9), st.data())
def test_any_chunks_and_any_cut_equal_the_equation(length, chunk, seed, data):
    stop = data.draw(st.integers(1, length - 1))

    @jax.jit
    def difference(decay, x, state):
        first, h = linear_recurrence(decay[:, :stop], x[:, :stop], state=state, chunk=chunk)
        second, _ = linear_recurrence(decay[:, stop:], x[:, stop:], state=h, chunk=chunk)
        return jnp.max(jnp.abs(jnp.concatenate([first, second], axis=1) - equation(decay, x, state)))

    with jax.enable_x64():
        assert difference(*inputs(length=length, seed=seed)) < 1e-10


def test_a_decay_of_one_without_input_leaves_the_state_as_it_was():
    decay, x, state = inputs(jnp.float32)
    still = jnp.arange(LENGTH)[:, None] >= 6
    _, last = linear_recurrence(jnp.where(still, 1, decay), jnp.where(still, 0, x), state=state)
    np.testing.assert_allclose(last, linear_recurrence(decay[:, :6], x[:, :6], state=state)[1], rtol=1e-6)


def test_bfloat16_inputs_are_summed_in_float32():
    decay, x, _ = (array.astype(jnp.bfloat16) for array in inputs(jnp.float32))
    out, last = linear_recurrence(decay, x)
    assert out.dtype == last.dtype == jnp.float32
    np.testing.assert_array_equal(out, linear_recurrence(decay.astype(jnp.float32), x.astype(jnp.float32))[0])


@pytest.mark.parametrize(
    ("settings", "message"),
    [(dict(chunk=0), "chunk=0 must be"), (dict(implementation="cuda"), "implementation='cuda' must be")],
)
def test_an_unknown_setting_raises(settings, message):
    decay, x, _ = inputs(jnp.float32)
    with pytest.raises(ValueError, match=message):
        inspect.unwrap(linear_recurrence)(decay, x, **settings)  # by the types unchecked
