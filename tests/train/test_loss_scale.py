"""The loss scale halves and skips where gradients overflow, and doubles after enough finite steps."""

import jax.numpy as jnp
import pytest

from arch.train import loss_scale


def run(finite, initial=8.0, growth_steps=3):
    """(scale, skipped steps) after each step."""
    state, seen = loss_scale.init(initial), []
    for step in finite:
        state, _ = loss_scale.after(state, jnp.float32(1.0 if step else jnp.nan), growth_steps)
        seen.append((float(state.scale), int(state.skipped_steps)))
    return seen


def test_it_doubles_after_so_many_finite_steps_in_a_row():
    assert run([True] * 6) == [(8, 0), (8, 0), (16, 0), (16, 0), (16, 0), (32, 0)]


def test_a_step_that_is_not_finite_halves_it_and_starts_the_count_again():
    assert run([True, True, False, True, True, True]) == [(8, 0), (8, 0), (4, 1), (4, 1), (4, 1), (8, 1)]


def test_it_does_not_go_below_1():
    assert run([False] * 5) == [(4, 1), (2, 2), (1, 3), (1, 4), (1, 5)]


@pytest.mark.parametrize(("norm", "scale", "seen"), [(3.0, 8.0, 3.0), (jnp.inf, 8.0, 0.0), (jnp.inf, 1.0, jnp.inf)])
def test_a_norm_that_a_smaller_scale_may_mend_is_logged_as_0(norm, scale, seen):
    _, metrics = loss_scale.after(loss_scale.init(scale), jnp.float32(norm), 3)
    assert float(metrics["gradient_norm"]) == seen


def test_gradients_are_divided_by_it():
    gradients = loss_scale.unscaled({"up": jnp.array([8.0, -2.0])}, loss_scale.init(4.0))
    assert gradients["up"].tolist() == [2.0, -0.5]
