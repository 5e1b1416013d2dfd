"""Rows arrive sorted at their experts' shards, come back to their places, and so do gradients, whatever the skew.

CPUs have no ragged all-to-all. Here it is made of an all-gather, as its documentation defines it.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import PartitionSpec as P

from arch.sharding import exchange
from arch.sharding import mesh as meshes

SHARDS, E, M, D = 4, 8, 7, 3
MESH = meshes.make(meshes.Config(data=2, expert=SHARDS))
ALL = P(("data", "expert"))
LOADS = {
    "even": [1, 1, 1, 1, 1, 0, 1, 1],
    "all on one expert": [0, 0, 0, 0, 0, 7, 0, 0],
    "all on the last": [0, 0, 0, 0, 0, 0, 0, 7],
    "none": [0, 0, 0, 0, 0, 0, 0, 0],
    "rows to spare": [0, 2, 0, 0, 1, 1, 0, 0],
}


def ragged_all_to_all(operand, output, input_offsets, send_sizes, output_offsets, recv_sizes, *, axis_name):
    """By the documentation of `jax.lax.ragged_all_to_all`."""
    gather = lambda array: lax.all_gather(array, axis_name)
    here, operands = lax.axis_index(axis_name), gather(operand)
    begins, sizes, places = (gather(array)[:, here] for array in (input_offsets, send_sizes, output_offsets))
    at = jnp.arange(len(output))
    for sender in range(len(operands)):
        offset = at - places[sender]
        inside = (offset >= 0) & (offset < sizes[sender])
        output = jnp.where(inside[:, None], operands[sender][jnp.where(inside, begins[sender] + offset, 0)], output)
    return jnp.where(jnp.sum(sizes) == jnp.sum(recv_sizes), output, jnp.nan)  # what is sent must be what is expected


@pytest.fixture(scope="module", params=["padded", "ragged"])
def exchanged(request):
    """The function (rows, sizes, weights) -> (rows there, sizes there, rows back, gradient of sum(weights * there))."""

    def local(rows, sizes, weights):
        how = dict(axis="expert", num_rows=M, limit=M, implementation=request.param)
        there, back, got = exchange.sorted_rows(sizes, **how)
        moved, gradient = jax.vjp(there, rows)
        return moved, got, back(moved), gradient(weights)[0]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lax, "ragged_all_to_all", ragged_all_to_all)
        split = dict(in_specs=ALL, out_specs=ALL)
        mapped = jax.jit(jax.shard_map(local, mesh=MESH, check_vma=False, **split))
        mapped(rows(), sizes("even"), weights())
    return lambda name: [np.asarray(array) for array in mapped(rows(), sizes(name), weights())]


def rows():
    return jnp.asarray(np.random.default_rng(0).standard_normal((8 * M, D)), jnp.float32)


def weights():
    return jnp.asarray(np.random.default_rng(1).standard_normal((8 * SHARDS * M, D)), jnp.float32)


def sizes(name):
    """[8 * e] of each shard: the load, and on every other shard its mirror image where that fits the name."""
    load = LOADS[name]
    return jnp.asarray(np.concatenate([load[::-1] if i % 2 and name == "rows to spare" else load for i in range(8)]))


def expected(name):
    """([8 shards][e/n experts] the rows that each expert gets, in the senders' order)."""
    by_shard, load = np.asarray(rows()).reshape(8, M, D), np.asarray(sizes(name)).reshape(8, E)
    of = lambda shard, e: by_shard[shard][load[shard, :e].sum() : load[shard, : e + 1].sum()]
    here = lambda shard: range(shard % SHARDS * E // SHARDS, (shard % SHARDS + 1) * E // SHARDS)
    group = lambda shard: range(shard // SHARDS * SHARDS, (shard // SHARDS + 1) * SHARDS)
    return [[np.concatenate([of(sender, e) for sender in group(shard)]) for e in here(shard)] for shard in range(8)]


@pytest.mark.parametrize("name", LOADS)
def test_each_expert_gets_its_rows_and_each_shard_its_own_back(exchanged, name):
    there, got, back, _ = exchanged(name)
    for shard, experts in enumerate(expected(name)):
        received = there.reshape(8, SHARDS * M, D)[shard]
        np.testing.assert_array_equal(got.reshape(8, -1)[shard], [len(rows) for rows in experts])
        np.testing.assert_array_equal(received[: got.reshape(8, -1)[shard].sum()], np.concatenate(experts))
        assert not received[got.reshape(8, -1)[shard].sum() :].any()
    sent = np.arange(M) < np.asarray(sizes(name)).reshape(8, E).sum(axis=1)[:, None]
    np.testing.assert_array_equal(back.reshape(8, M, D), np.asarray(rows()).reshape(8, M, D) * sent[..., None])


@pytest.mark.parametrize("name", LOADS)
def test_gradients_come_back_as_rows_do(exchanged, name):
    there, _, _, gradient = exchanged(name)
    np.testing.assert_allclose(np.sum(gradient * rows()), np.sum(there * weights()), atol=1e-4)
    sent = np.arange(M) < np.asarray(sizes(name)).reshape(8, E).sum(axis=1)[:, None]
    assert np.array_equal(gradient.reshape(8, M, D).any(axis=-1), sent)


@pytest.mark.parametrize(("device_kind", "ragged"), [("cpu", False), ("NVIDIA H200", True), ("TPU v5p", True)])
def test_the_device_kind_chooses_the_implementation(device_kind, ragged):
    def local(rows, sizes):
        there, _, _ = exchange.sorted_rows(sizes, axis="expert", num_rows=M, limit=M, device_kind=device_kind)
        return there(rows)

    mapped = jax.shard_map(local, mesh=MESH, in_specs=ALL, out_specs=ALL, check_vma=False)
    assert ("ragged_all_to_all" in str(jax.make_jaxpr(mapped)(rows(), sizes("even")))) == ragged


@pytest.mark.parametrize(
    ("device_kind", "shards", "expected"),
    [("TPU v5 lite", 16, "ragged"), ("TPU v5 lite", 32, "padded"), ("TPU v5", 32, "ragged"), ("H200", 32, "ragged")],
)
def test_rows_alone_travel_where_the_devices_can_do_it(device_kind, shards, expected):
    mesh = jax.sharding.AbstractMesh((shards,), ("expert",), axis_types=(jax.sharding.AxisType.Auto,))
    with jax.sharding.use_abstract_mesh(mesh):
        assert exchange.preferred(device_kind) == expected
