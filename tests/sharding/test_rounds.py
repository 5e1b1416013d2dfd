"""Rows go through their experts in rounds as they do in one go, whatever the skew, and so do all gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import PartitionSpec as P

from arch.sharding import exchange, rounds
from tests.sharding import test_exchange as exchanges
from tests.sharding.test_exchange import ALL, MESH, SHARDS, D, E, M, ragged_all_to_all, rows

LOADS = exchanges.LOADS | {"most on the first shard": [3, 2, 0, 0, 1, 0, 0, 1]}
LIMIT = 2
HOW = dict(axis="expert", device_kind="cpu")


def experts(arrays, weights, sizes):
    """[m d] each row, times a factor of its own, by its expert's matrix, and a sine of it."""
    (row, factor), (matrix, _) = arrays, weights
    expert = jnp.searchsorted(jnp.cumsum(sizes), jnp.arange(len(row)), side="right", method="compare_all")
    return jnp.sin(jnp.einsum("md,mdf->mf", row * factor, matrix.at[expert].get(mode="fill", fill_value=0)))


def at_once(arrays, weights, sizes, how):
    there, back, got = exchange.sorted_rows(sizes, num_rows=M, limit=M, **how)
    return back(experts(jax.tree.map(there, arrays), weights, got))


def in_rounds(arrays, weights, sizes, how):
    return rounds.in_rounds(experts, arrays, weights, sizes, limit=LIMIT, **how)


def with_gradients(function, how):
    """The function of (rows, factors, matrices, sizes) -> (result, gradients by the first three), on the mesh."""

    def local(row, factor, matrix, sizes):
        run = lambda row, factor, matrix: function((row, factor), (matrix, sizes), sizes, how)
        out, pull = jax.vjp(run, row, factor, matrix)
        return out, *pull(jnp.cos(jnp.arange(out.size, dtype=jnp.float32)).reshape(out.shape))

    split = dict(in_specs=(ALL, ALL, P(("data", "expert")), ALL), out_specs=ALL)
    return jax.jit(jax.shard_map(local, mesh=MESH, check_vma=False, **split))


@pytest.fixture(scope="module", params=["padded", "ragged"])
def both(request):
    """(in rounds, at once), compiled, with this way to send rows."""
    how = HOW | dict(implementation=request.param)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lax, "ragged_all_to_all", ragged_all_to_all)
        functions = [with_gradients(function, how) for function in (in_rounds, at_once)]
        for function in functions:
            function(*inputs("even"))
    return functions


def inputs(name):
    draw = np.random.default_rng(2).standard_normal
    factor, matrix = draw((8 * M, 1)), draw((8 * E // SHARDS, D, D))
    return rows(), jnp.asarray(factor, jnp.float32), jnp.asarray(matrix, jnp.float32), jnp.asarray(LOADS[name] * 8)


@pytest.mark.parametrize("name", LOADS)
def test_rounds_give_the_values_and_gradients_of_one_exchange(both, name):
    for found, wanted in zip(*(function(*inputs(name)) for function in both), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)


def test_a_round_has_few_places():
    shapes = [str(jax.make_jaxpr(with_gradients(function, HOW))(*inputs("even"))) for function in (in_rounds, at_once)]
    places = [f"f32[{SHARDS * limit},{D}] = all_to_all" for limit in (LIMIT, M)]
    assert [[place in text for place in places] for text in shapes] == [[True, False], [False, True]]
