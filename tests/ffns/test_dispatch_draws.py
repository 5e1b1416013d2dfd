"""Any assignment at all is computed alike by the three dispatches: drawn experts, skew, empty experts, empty rows."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st

from arch.ffns import moe
from arch.layers.contract import Routes
from arch.routers import replay
from tests.contracts.sublayers import context, jit
from tests.ops.routing.draws import held_to

ROWS, D, F = 2, 3, 5
WAYS = ("grouped", "gathered", "dense")


@functools.cache
def compiled(num_experts, top_k):
    """The function (x, routes, params) -> {way: (output, gradients by x and params)} of a layer that replays."""
    sizes = dict(num_experts=num_experts, top_k=top_k, hidden_dim=F, gated=False, renormalize=False)
    cfg = moe.Config(**sizes, router=replay.Config(weights="recorded"))

    def of(way, x, routes, params):
        def loss(x, params):
            given = context(x, memory=None, routes=routes)
            out = cfg.replace(dispatch=way).make().apply({"params": params}, x, given).x
            return jnp.sum(jnp.sin(out)), out

        (_, out), gradients = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(x, params)
        return out, gradients

    return jit(lambda *args: {way: of(way, *args) for way in WAYS})


def _naive(x, routes, params):
    """Pair by pair, in float64."""
    out, (up, down) = np.zeros(x.shape), (np.asarray(params[name], float) for name in ("up", "down"))
    for row, t, c in zip(*np.nonzero(routes.experts >= 0)):
        e = routes.experts[row, t, c]
        hidden = np.asarray(x[row, t], float) @ up[e]
        out[row, t] += float(routes.weights[row, t, c]) * ((hidden / (1 + np.exp(-hidden))) @ down[e])
    return out


def check(tokens, num_experts, top_k, seed, skew, missing):
    """A draw: `skew` of the tokens take expert 0 last, `missing` of the pairs are not there."""
    rng = np.random.default_rng(seed)
    aside = (np.arange(num_experts) == 0) * (rng.random((ROWS, tokens, 1)) < skew)
    experts = np.argsort(rng.random((ROWS, tokens, num_experts)) + aside, axis=-1)[..., :top_k]
    experts = np.where(rng.random(experts.shape) < missing, -1, experts)
    weights = np.where(experts < 0, 0, rng.standard_normal(experts.shape))
    shapes = dict(router=(D, num_experts), up=(num_experts, D, F), down=(num_experts, F, D))
    params = {name: jnp.asarray(rng.standard_normal(shape), jnp.float32) for name, shape in shapes.items()}
    x = jnp.asarray(rng.standard_normal((ROWS, tokens, D)), jnp.float32)
    routes = Routes(jnp.asarray(experts, jnp.int32), jnp.asarray(weights, jnp.float32))
    found = compiled(num_experts, top_k)(x, routes, params)
    expected, absent = _naive(x, routes, params), np.setdiff1d(np.arange(num_experts), experts)
    for way, (out, (by_x, by_params)) in found.items():
        np.testing.assert_allclose(out, expected, atol=1e-4, err_msg=way)
        np.testing.assert_allclose(by_x, found["dense"][1][0], atol=1e-3, err_msg=way)
        for name, gradient in by_params.items():
            np.testing.assert_allclose(gradient, found["dense"][1][1][name], atol=1e-3, err_msg=f"{way} {name}")
        assert not np.any(np.asarray(by_params["up"])[absent]), "an expert without a token has a gradient"


DRAW = (st.integers(0, 99), st.sampled_from([0.0, 0.5, 1.0]), st.sampled_from([0.0, 0.3, 1.0]))


@held_to(*DRAW, examples=25)
def test_each_way_is_the_sum_over_pairs_of_any_assignment(seed, skew, missing):
    check(7, 5, 2, seed, skew, missing)


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(1, 2, 1), (1, 7, 7), (19, 3, 3), (4, 13, 2), (33, 2, 1)], ids=str)
def test_and_so_it_is_of_every_shape(shape):
    @held_to(*DRAW, examples=40)
    def holds(seed, skew, missing):
        check(*shape, seed, skew, missing)

    holds()
