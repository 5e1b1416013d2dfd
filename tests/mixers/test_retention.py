"""What is particular to retention: fixed decays, and the equation of the paper."""

import jax
import jax.numpy as jnp
import numpy as np

from arch.mixers import retention
from arch.positions import none
from tests.contracts.sublayers import Case, inputs

CFG = retention.Config(num_heads=3, head_dim=4)


def test_heads_fade_as_the_paper_says():
    np.testing.assert_allclose(np.exp(retention.log_decays(4)), [31 / 32, 63 / 64, 127 / 128, 255 / 256])


def test_heads_of_the_paper_s_experiments_have_even_rates_between_the_same_ends():
    rates = 1 - np.exp(retention.log_decays(5, "even"))
    np.testing.assert_allclose(rates, [1 / 32, 1 / 64, 1 / 128, 1 / 256, 1 / 512])


def test_values_have_twice_the_channels_of_keys():
    assert Case(CFG).params["value"].shape[-1] == 8


def test_the_cache_does_not_grow_with_the_length():
    short, long = (jax.tree.map(jnp.shape, CFG.init_cache(2, length, 7, jnp.float32)) for length in (3, 3000))
    assert short == long == {"state": (2, 3, 4, 8)}


def test_the_result_is_that_of_the_paper_s_parallel_form():
    case = Case(CFG.replace(position=none.Config()))
    params, x = jax.tree.map(np.asarray, case.params), np.asarray(inputs())
    query, key, value, gate = (
        np.einsum("btd,dnh->bnth", x, params[name]) for name in ("query", "key", "value", "gate")
    )
    steps = np.arange(x.shape[1])[:, None] - np.arange(x.shape[1])
    decay = np.tril((1 - 2.0 ** (-5 - np.arange(3)))[:, None, None] ** np.maximum(steps, 0))
    heads = (query @ key.swapaxes(-1, -2) / 2 * decay) @ value
    normed = heads / np.sqrt(np.mean(heads**2, axis=-1, keepdims=True) + 1e-5)
    expected = np.einsum("bnth,nhd->btd", gate / (1 + np.exp(-gate)) * normed, params["out"])
    np.testing.assert_allclose(case.full, expected, atol=2e-5)
