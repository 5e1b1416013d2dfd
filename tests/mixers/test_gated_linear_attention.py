"""What is particular to gated linear attention: decays that each token chooses a channel."""

import jax
import jax.numpy as jnp
import numpy as np

from arch.mixers import gated_linear_attention
from tests.contracts.sublayers import Case, inputs

CFG = gated_linear_attention.Config(num_heads=2, head_dim=3, gate_rank=2, temperature=2.0)


def test_the_cache_does_not_grow_with_the_length():
    short, long = (jax.tree.map(jnp.shape, CFG.init_cache(2, length, 7, jnp.float32)) for length in (3, 3000))
    assert short == long == {"state": (2, 2, 3, 6)}


def test_the_result_is_that_of_the_paper_s_recurrence():
    case = Case(CFG)
    params, x = jax.tree.map(np.asarray, case.params), np.asarray(inputs())
    query, key, value, gate = (
        np.einsum("btd,dnh->btnh", x, params[name]) for name in ("query", "key", "value", "gate")
    )
    logits = np.einsum("btr,rnh->btnh", x @ params["decay_down"], params["decay_up"]) + params["decay_bias"]
    alpha, gate = (1 / (1 + np.exp(-logits))) ** 0.5, gate + params["gate_bias"]
    state, heads = 0.0, np.zeros(value.shape)
    for t in range(x.shape[1]):
        state = alpha[:, t, ..., None] * state + key[:, t, ..., None] * value[:, t, :, None]
        heads[:, t] = np.einsum("bnh,bnhv->bnv", query[:, t] / np.sqrt(3), state)
    normed = heads / np.sqrt(np.mean(heads**2, axis=-1, keepdims=True) + 1e-5) * params["norm"]
    expected = np.einsum("btnh,nhd->btd", gate / (1 + np.exp(-gate)) * normed, params["out"])
    np.testing.assert_allclose(case.full, expected, atol=2e-5)
