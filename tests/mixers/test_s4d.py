"""What is particular to S4D: initial rates and step sizes, and a cache that does not grow."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arch.layers.weight import unbox
from arch.mixers import s4d
from tests.contracts.sublayers import context, inputs

CFG = s4d.Config(num_states=6)


def initial(cfg):
    x = inputs(1, 2, 211)
    return unbox(cfg.make().init(jax.random.key(0), x, context(x))["params"])


def test_the_cache_does_not_grow_with_the_length():
    short, long = (jax.tree.map(jnp.shape, CFG.init_cache(2, length, 7, jnp.bfloat16)) for length in (3, 100_000))
    assert short == long == {"state": (2, 7, 3)}


LIN, INV = [0, np.pi, 2 * np.pi], [30 / np.pi, 6 / np.pi, 1.2 / np.pi]


@pytest.mark.parametrize("kind, frequencies", [("lin", LIN), ("inv", INV)])
def test_every_channel_starts_with_the_rates_of_the_paper(kind, frequencies):
    params = initial(CFG.replace(initial=kind))
    np.testing.assert_allclose(np.exp(params["decay"]), 0.5, rtol=1e-6)
    np.testing.assert_allclose(params["frequency"], np.tile(frequencies, (211, 1)), rtol=1e-6)


def test_step_sizes_start_log_uniform_within_their_bounds():
    step = initial(CFG.replace(dt_min=0.01, dt_max=0.5))["step"]
    assert np.log(0.01) <= step.min() < -4.4 and -0.8 < step.max() <= np.log(0.5)
    np.testing.assert_allclose(step.mean(), (np.log(0.01) + np.log(0.5)) / 2, atol=0.3)


def test_an_odd_number_of_states_is_refused():
    with pytest.raises(ValueError, match="num_states=5 must be a multiple of 2"):
        CFG.replace(num_states=5)
