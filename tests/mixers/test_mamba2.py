"""What is particular to Mamba-2: its initial rates, groups, and a cache that does not grow."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arch.mixers import mamba2
from tests.contracts.sublayers import Case, context, inputs

CFG = mamba2.Config(num_heads=6, head_dim=2, state_dim=3, num_groups=2, conv_width=5)


def test_the_cache_does_not_grow_with_the_length():
    short, long = (jax.tree.map(jnp.shape, CFG.init_cache(2, length, 7, jnp.bfloat16)) for length in (3, 100_000))
    assert short == long == {"in": (2, 4, 12), "B": (2, 4, 6), "C": (2, 4, 6), "state": (2, 6, 2, 3)}


def test_initial_rates_lie_between_minus_sixteen_and_minus_one():
    rates = jnp.exp(mamba2.decay_init(jax.random.key(0), (998,)))
    assert 1 <= rates.min() < 1.1 and 15.9 < rates.max() <= 16
    np.testing.assert_allclose(rates.mean(), 8.5, rtol=0.05)


def test_heads_of_one_group_read_and_write_what_is_theirs():
    """What a group writes (its columns of B) reaches the heads of that group only, before the output's product."""
    case, x = Case(CFG), inputs()
    eye = {**case.params, "out": jnp.eye(12, 7, k=0)}  # the first 7 channels: heads 0, 1, 2 (group 0) and a half of 3
    changed = eye | {"B": eye["B"].at[:, :3].mul(2.0)}
    first, second = (case.apply(params, x, context(x)).x for params in (eye, changed))
    differs = np.any(np.asarray(first != second), axis=(0, 1))
    assert differs[:6].all() and not differs[6]


def test_a_step_is_at_least_the_least_one():
    case, x, step = Case(CFG), inputs(), 0.7
    still = case.params | {"dt": jnp.zeros_like(case.params["dt"]), "dt_bias": jnp.full(6, -20.0)}
    exact = still | {"dt_bias": jnp.full(6, np.log(np.expm1(step)))}
    bounded = CFG.replace(least_step=step).make().apply({"params": still}, x, context(x)).x
    np.testing.assert_allclose(bounded, case.apply(exact, x, context(x)).x, rtol=1e-5)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (dict(dt_min=0.2), "dt_min=0.2 must be at most dt_max=0.1"),
        (dict(num_groups=4), "num_heads=6 must be a multiple of num_groups=4"),
    ],
)
def test_what_cannot_be_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        CFG.replace(**fields)
