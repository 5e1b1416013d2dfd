"""What is particular to Mamba: its initial rates and steps, and a cache that does not grow."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arch.layers.weight import unbox
from arch.mixers import mamba
from tests.contracts.sublayers import Case, context, inputs

CFG = mamba.Config(inner_dim=10, state_dim=3)


def _initial(cfg=CFG):
    return unbox(cfg.make().init(jax.random.key(0), inputs(), context(inputs()))["params"])


def test_the_cache_does_not_grow_with_the_length():
    short, long = (jax.tree.map(jnp.shape, CFG.init_cache(2, length, 7, jnp.float32)) for length in (3, 3000))
    assert short == long == {"tail": (2, 3, 10), "state": (2, 10, 3)}


def test_the_state_is_kept_in_float32():
    cache = CFG.init_cache(2, 5, 7, jnp.bfloat16)
    assert cache["state"].dtype == jnp.float32 and cache["tail"].dtype == jnp.bfloat16


def test_initial_rates_are_minus_one_to_minus_n():
    np.testing.assert_allclose(-jnp.exp(_initial()["A_log"]), np.tile([-1.0, -2.0, -3.0], (10, 1)), rtol=1e-6)


def test_initial_steps_lie_between_dt_min_and_dt_max():
    cfg = mamba.Config(inner_dim=997, state_dim=3, dt_min=0.01, dt_max=0.3)
    steps = jax.nn.softplus(_initial(cfg)["dt_bias"])
    assert 0.0099 < steps.min() < 0.011 and 0.27 < steps.max() < 0.301
    np.testing.assert_allclose(np.median(steps), np.sqrt(0.01 * 0.3), rtol=0.15)  # log-uniform


def test_the_rank_of_the_step_is_a_sixteenth_of_the_width_rounded_up():
    assert Case(CFG, embed=17).params["dt_down"].shape == (10, 2)


def test_steps_the_wrong_way_round_are_refused():
    with pytest.raises(ValueError, match="dt_min=0.2 must be at most dt_max=0.1"):
        mamba.Config(inner_dim=4, dt_min=0.2)
