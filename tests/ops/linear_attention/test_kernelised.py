"""Kernel attention is a weighted mean, over what a token may see, in time linear in the length."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arch.ops.linear_attention.kernelised import FEATURE_MAPS, causal_kernel_attention, kernel_attention

SHAPE = (2, 37, 2, 3)


def inputs():
    query, key, value = (jnp.asarray(x) for x in np.random.default_rng(0).standard_normal((3, *SHAPE)))
    reset = jnp.zeros(SHAPE[:2], bool).at[0, 0].set(True).at[0, 20].set(True).at[1, 5].set(True)
    valid = jnp.arange(SHAPE[1]) < jnp.asarray([[37], [30]])
    return query, key, value, reset, valid


def quadratic(query, key, value, reset, valid, causal):
    """The equation over all pairs, in numpy."""
    weights = np.einsum("btnh,bsnh->bnts", query, key)
    segment = np.cumsum(reset, axis=1)
    seen = (segment[:, :, None] == segment[:, None]) & np.asarray(valid)[:, None]
    if causal:
        seen = seen & np.tri(SHAPE[1], dtype=bool)
    weights = np.where(seen[:, None], weights, 0.0)
    return np.einsum("bnts,bsnh->btnh", weights / np.maximum(weights.sum(-1, keepdims=True), 1e-12), value)


@pytest.mark.parametrize(
    "name, causal, packed",
    [("elu", True, False), ("elu", False, True), ("relu", True, True), ("relu", False, False)],
)
def test_values_are_those_of_all_pairs(name, causal, packed):
    with jax.enable_x64():
        query, key, value, reset, valid = inputs()
        query, key = FEATURE_MAPS[name](query), FEATURE_MAPS[name](key)
        given = dict(reset=reset if packed else None, valid=valid)
        if causal:
            out, _ = causal_kernel_attention(query, key, value, **given)
        else:
            out = kernel_attention(query, key, value, **given)
        starts = np.asarray(reset) if packed else np.zeros(SHAPE[:2], bool)
        expected = quadratic(*map(np.asarray, (query, key, value)), starts, valid, causal)
        counts = np.asarray(valid)[..., None, None]
        np.testing.assert_allclose(np.where(counts, out, 0), np.where(counts, expected, 0), rtol=0, atol=1e-10)


def test_gradients_are_finite_where_no_feature_is_active():
    query, key, value, *_ = (x.astype(jnp.float32) for x in inputs())
    relu = FEATURE_MAPS["relu"]
    objective = lambda *arrays: jnp.sum(causal_kernel_attention(relu(-abs(arrays[0])), relu(arrays[1]), arrays[2])[0])
    value, gradients = jax.value_and_grad(objective, argnums=(0, 1, 2))(query, key, value)
    assert value == 0 and all(np.isfinite(gradient).all() for gradient in gradients)


def test_elu_plus_one_keeps_small_values():
    np.testing.assert_allclose(FEATURE_MAPS["elu"](jnp.asarray([-40.0, 0.0, 2.0])), [np.exp(-40.0), 1, 3], rtol=1e-6)
