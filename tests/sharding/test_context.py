"""What shards of a row's tokens exchange: tokens beside theirs, parts of the row, states, tokens for heads."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from arch.sharding import context, passing, ring
from arch.sharding import mesh as meshes

SHARDS, LENGTH = 4, 6
MESH = meshes.make(meshes.Config(data=2, context=SHARDS))
ROW = np.arange(1, SHARDS * LENGTH + 1)


def on_shards(function, *arrays, out=P(None, "context")):
    """The results of all shards side by side."""
    specs = (P(None, "context"),) * len(arrays)
    mapped = jax.shard_map(function, mesh=MESH, in_specs=specs, out_specs=out, check_vma=False)
    return np.asarray(jax.jit(mapped)(*map(jnp.asarray, arrays)))


@pytest.mark.parametrize("count", [1, 5, 6, 15, 20])
@pytest.mark.parametrize("side", ["before", "after"])
def test_each_shard_gets_the_tokens_beside_its_own(side, count):
    found = on_shards(lambda row: getattr(context, side)(row, count), ROW[None]).reshape(SHARDS, count)
    zeros = np.zeros(count, int)
    padded = np.concatenate([zeros, ROW, zeros])
    begin = {"before": 0, "after": count + LENGTH}[side]
    expected = [padded[begin + i * LENGTH :][:count] for i in range(SHARDS)]
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("dtype", [np.int32, bool])
def test_a_causal_ring_gives_each_shard_an_early_and_a_late_part(dtype):
    row = (ROW % 3 == 0 if dtype is bool else ROW).astype(dtype)[None]
    dealt = on_shards(ring._dealt, row).reshape(SHARDS, 2, LENGTH // 2)
    parts = row.reshape(2 * SHARDS, -1)
    np.testing.assert_array_equal(dealt, [[parts[i], parts[2 * SHARDS - 1 - i]] for i in range(SHARDS)])
    np.testing.assert_array_equal(on_shards(lambda row: ring._dealt_back(ring._dealt(row)), row), row)


def test_tokens_are_swapped_for_heads_and_back():
    rows = np.random.default_rng(0).standard_normal((2, SHARDS * LENGTH, 2 * SHARDS, 3)).astype(np.float32)
    np.testing.assert_array_equal(on_shards(context.to_heads, rows, out=P(None, None, "context")), rows)
    np.testing.assert_array_equal(on_shards(lambda array: context.to_tokens(context.to_heads(array)), rows), rows)


def test_the_state_before_each_shard_is_that_of_all_before_it():
    """Of a recurrence of matrices, which do not commute."""
    turns, adds = np.random.default_rng(1).standard_normal((2, SHARDS, 3, 3)).astype(np.float32)

    def entering(turn, add):
        return passing.entering((turn[0], add[0]), passing.turned, jnp.ones((3, 3)))[None]

    states = [np.ones((3, 3)), adds[0]]  # what is before the row's first token is nobody's but the first shard's
    for turn, add in zip(turns[1:-1], adds[1:-1]):
        states.append(turn @ states[-1] + add)
    specs = dict(in_specs=(P("context"), P("context")), out_specs=P("context"))
    found = jax.jit(jax.shard_map(entering, mesh=MESH, check_vma=False, **specs))(turns, adds)
    np.testing.assert_allclose(found, states, rtol=1e-4, atol=1e-5)


def test_rows_are_split_where_the_mesh_divides_them():
    assert context.shards(24) == 1
    with jax.set_mesh(MESH):
        assert (context.shards(24), context.shards(23)) == (SHARDS, 1)
        assert on_shards(lambda row: jnp.full((1, 1), context.shards(24)), ROW[None]).max() == 1
