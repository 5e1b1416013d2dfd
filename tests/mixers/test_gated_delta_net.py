"""What is particular to Gated DeltaNet: a cache that does not grow, and keys shared by heads."""

import jax
import jax.numpy as jnp
import pytest

from arch.mixers import gated_delta_net

CFG = gated_delta_net.Config(num_heads=4, num_key_heads=2, key_dim=3, value_dim=5)


def test_the_cache_does_not_grow_with_the_length():
    short, long = (jax.tree.map(jnp.shape, CFG.init_cache(2, length, 7, jnp.bfloat16)) for length in (3, 100_000))
    assert short == long == {"query": (2, 3, 6), "key": (2, 3, 6), "value": (2, 3, 20), "state": (2, 4, 5, 3)}


def test_heads_that_key_heads_do_not_divide_are_refused():
    with pytest.raises(ValueError, match="num_heads=4 must be a multiple of num_key_heads=3"):
        CFG.replace(num_key_heads=3)
