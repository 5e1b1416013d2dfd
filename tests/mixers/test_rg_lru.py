"""What is particular to Griffin's recurrent block: its initial rates, its first token, a cache that does not grow."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arch.mixers import rg_lru
from tests.contracts.sublayers import Case, context, inputs

CFG = rg_lru.Config(inner_dim=10, num_heads=2, conv_width=3)


def test_the_cache_does_not_grow_with_the_length():
    short, long = (jax.tree.map(jnp.shape, CFG.init_cache(2, length, 7, jnp.bfloat16)) for length in (3, 100_000))
    assert short == long == {"tail": (2, 2, 10), "state": (2, 10)}


def test_an_open_gate_first_keeps_between_0_9_and_0_999():
    decay = jnp.exp(-rg_lru.SHARPNESS * jax.nn.softplus(rg_lru.rate_init(jax.random.key(0), (997,))))
    assert 0.9 <= decay.min() < 0.901 and 0.998 < decay.max() < 0.9991
    np.testing.assert_allclose(decay.mean(), 0.9495, atol=0.003)


def test_a_document_starts_at_position_zero_without_segments_too():
    case, x = Case(CFG), inputs()
    cache = jax.tree.map(jnp.ones_like, case.empty_cache()) | {"tail": case.empty_cache()["tail"]}
    np.testing.assert_allclose(case(x, context(x), cache).x, case.full, atol=1e-6)


def test_heads_that_do_not_divide_the_channels_are_refused():
    with pytest.raises(ValueError, match="inner_dim=10 must be a multiple of num_heads=4"):
        rg_lru.Config(inner_dim=10, num_heads=4)
