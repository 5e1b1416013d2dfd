"""The soft mixture in the layer is the paper's algorithm 1, and has nothing that it could not use."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arch.ffns import moe
from arch.routers import soft
from arch.sharding import mesh as meshes
from tests.contracts.sublayers import Case, context, holds, inputs, jit

OFF = dict(dispatch="dense", balance_weight=0.0, z_weight=0.0)
CFG = moe.Config(num_experts=4, top_k=4, hidden_dim=6, router=soft.Config(places=3), **OFF)
ROWS, TOKENS, EMBED = 4, 5, 8
LENGTHS = (5, 3, 5, 1)


def _given(x):
    return context(x, valid=jnp.arange(TOKENS)[None] < jnp.asarray(LENGTHS)[:, None])


@pytest.fixture(scope="module")
def case():
    return Case(CFG, EMBED)


@pytest.fixture(scope="module")
def output(case):
    x = inputs(ROWS, TOKENS, EMBED)
    return case(x, _given(x))


def _algorithm(params, x):
    """One row [n d], place by place, in float64."""
    p = {name: np.asarray(value, np.float64) for name, value in params.items()}
    unit = lambda v, axis: v / np.linalg.norm(v, axis=axis, keepdims=True)
    logits = p["router_scale"] * unit(x, 1) @ unit(p["router"], 0)
    softmax = lambda v, axis: np.exp(v) / np.exp(v).sum(axis, keepdims=True)
    dispatch, combine, out = softmax(logits, 0), softmax(logits, 1), np.zeros(x.shape)
    for place in range(logits.shape[1]):
        e, mixed = place // 3, dispatch[:, place] @ x
        gate = mixed @ p["gate"][e]
        result = (gate / (1 + np.exp(-gate)) * (mixed @ p["up"][e])) @ p["down"][e]
        out += combine[:, place : place + 1] * result
    return out


def test_it_is_the_paper_s_algorithm_over_the_real_tokens(case, output):
    x = np.asarray(inputs(ROWS, TOKENS, EMBED), np.float64)
    expected = np.zeros(x.shape)
    for row, n in enumerate(LENGTHS):
        expected[row, :n] = _algorithm(case.params, x[row, :n])
    assert holds(output.x, expected)


def test_each_token_is_served_and_none_dropped(output):
    assert output.aux.stats["sum_dropped"] == output.aux.stats["sum_unserved"] == 0
    np.testing.assert_allclose(jnp.sum(output.aux.stats["expert_load"]), np.mean(LENGTHS), rtol=1e-6)


def test_the_output_teaches_the_router_and_its_scale(case):
    x = inputs(ROWS, TOKENS, EMBED)
    loss = lambda params: jnp.sum(case.apply(params, x, _given(x)).x ** 2)
    gradient = jit(jax.grad(loss))(case.params)
    assert all(np.isfinite(leaf).all() and np.any(leaf) for leaf in jax.tree.leaves(gradient))


def test_on_a_mesh_with_experts_apart_it_is_the_same(case, output):
    x = inputs(ROWS, TOKENS, EMBED)
    with jax.set_mesh(meshes.make(meshes.Config(data=2, expert=2, tensor=2))):
        split = jit(case.apply)(case.params, x, _given(x))
    assert holds(split.x, output.x)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(dispatch="grouped"), "dispatch='grouped' must be 'dense' with router='soft'"),
        (dict(balance_weight=0.1), "balance_weight=0.1 and z_weight=0.0 must be 0 with router='soft'"),
        (dict(z_weight=0.1), "balance_weight=0.0 and z_weight=0.1 must be 0 with router='soft'"),
        (dict(top_k=2), "top_k=2 must be num_experts=4 with router='soft'"),
    ],
)
def test_what_it_could_not_use_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        CFG.replace(**changes)
