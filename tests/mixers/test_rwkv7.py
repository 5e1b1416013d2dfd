"""What is particular to RWKV-7: values of the first layer, decays within bounds, a cache that does not grow."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arch.mixers import rwkv7
from tests.contracts.sublayers import Case, context, inputs

CFG = rwkv7.Config(num_heads=2, head_dim=3, decay_rank=2, rate_rank=2, gate_rank=2, value_rank=5)


def test_the_cache_does_not_grow_with_the_length():
    short, long = (jax.tree.map(jnp.shape, CFG.init_cache(2, length, 7, jnp.bfloat16)) for length in (3, 100_000))
    assert short == long == {"last": (2, 7), "state": (2, 2, 3, 3)}


def test_residual_values_need_a_layer_that_gives_its_own():
    with pytest.raises(ValueError, match="values='residual' must have a layer of values='first' before it"):
        Case(CFG.replace(values="residual"))


def test_a_share_of_one_takes_the_values_of_the_first_layer():
    x = inputs()
    case = Case(CFG.replace(values="first"))
    params = case.params | {
        "value_down": jnp.zeros((7, 5)),
        "value_up": jnp.zeros((5, 6)),
        "value_bias": jnp.full(6, 99.0),
    }
    first = jnp.sin(jnp.arange(x[..., :6].size, dtype=jnp.float32)).reshape(*x.shape[:2], 6)
    residual = CFG.replace(values="residual").make()
    other = params | {"value": params["value"] + 1}
    read = context(x, shared={rwkv7.FIRST_VALUES: first})
    one, two = (residual.apply({"params": some}, x, read).x for some in (params, other))
    np.testing.assert_allclose(one, two, atol=1e-6)


def test_initial_decays_are_spread_within_their_bounds():
    precursor = rwkv7.decay_init(8)(None, (64,))
    decay = np.exp(-np.exp(-0.5) * jax.nn.sigmoid(precursor))
    assert np.exp(-np.exp(-0.5)) < decay.min() < 0.7 and 0.99 < decay.max() < 1


def test_a_chunk_that_is_no_power_of_two_is_refused():
    with pytest.raises(ValueError, match="chunk=6 must be a power of two"):
        CFG.replace(chunk=6)
