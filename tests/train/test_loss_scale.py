"""The loss scale halves and skips where gradients overflow, and doubles after enough finite steps."""

import jax.numpy as jnp
import pytest

from arch.train import loss_scale


def run(finite, initial=8.0, growth_steps=3):
    """The scale after each step."""
    state, seen = loss_scale.init(initial), []
    for step in finite:
        overflows = loss_scale.overflows(state, jnp.float32(1.0 if step else jnp.nan))
        state = loss_scale.after(state, overflows, growth_steps)
        seen.append(float(state.scale))
    return seen


def test_it_doubles_after_so_many_finite_steps_in_a_row():
    assert run([True] * 6) == [8, 8, 16, 16, 16, 32]


def test_a_step_that_is_not_finite_halves_it_and_starts_the_count_again():
    assert run([True, True, False, True, True, True]) == [8, 8, 4, 4, 4, 8]


def test_it_does_not_go_below_1():
    assert run([False] * 3) == [4, 2, 1]


@pytest.mark.parametrize(("norm", "scale", "over"), [(3.0, 8.0, False), (jnp.inf, 8.0, True), (jnp.inf, 1.0, False)])
def test_a_norm_that_a_smaller_scale_may_mend_is_an_overflow(norm, scale, over):
    assert bool(loss_scale.overflows(loss_scale.init(scale), jnp.float32(norm))) == over


def test_the_first_scale_is_a_float32():
    with pytest.raises(ValueError, match="initial=1e[+]39 must be above 0 and at most 3.40282e[+]38"):
        loss_scale.Config(initial=1e39)


def test_gradients_are_divided_by_it():
    gradients = loss_scale.unscaled({"up": jnp.array([8.0, -2.0])}, loss_scale.init(4.0))
    assert gradients["up"].tolist() == [2.0, -0.5]
