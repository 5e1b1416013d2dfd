"""The rules place logical axes on a mesh of 8 devices; what does not fit is said before anything is compiled."""

import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from arch.sharding import mesh as meshes

MESH = meshes.make(meshes.Config(data=2, fsdp=2, tensor=2))
EXPERTS = meshes.make(meshes.Config(fsdp=2, expert=2, tensor=2))
STAGES = meshes.make(meshes.Config(data=2, stage=2, fsdp=2))
CONTEXT = meshes.make(meshes.Config(data=2, context=4))


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        (dict(), (8, 1, 1, 1, 1, 1)),
        (dict(data=2, fsdp=2, tensor=2), (2, 1, 2, 1, 1, 2)),
        (dict(data=1, fsdp=-1, tensor=2), (1, 1, 4, 1, 1, 2)),
        (dict(data=1, tensor=-1), (1, 1, 1, 1, 1, 8)),
        (dict(expert=4), (2, 1, 1, 4, 1, 1)),
        (dict(context=4), (2, 1, 1, 1, 4, 1)),
        (dict(stage=4), (2, 4, 1, 1, 1, 1)),
    ],
)
def test_minus_one_takes_the_devices_that_are_left(sizes, expected):
    assert meshes.shape(meshes.Config(**sizes), 8) == expected


@pytest.mark.parametrize("sizes", [dict(data=3), dict(data=-1, tensor=3), dict(data=2, fsdp=2, tensor=4)])
def test_a_mesh_that_does_not_fit_the_devices_is_refused(sizes):
    with pytest.raises(ValueError, match=r"mesh\.data=.*must multiply to the number of devices, 8"):
        meshes.shape(meshes.Config(**sizes), 8)


@pytest.mark.parametrize(
    ("sizes", "num_devices", "changes"),
    [
        (dict(fsdp=8), 4, "mesh.fsdp=4"),
        (dict(data=2, fsdp=4), 4, "mesh.data=1"),
        (dict(data=2, fsdp=4), 12, "mesh.data=3"),
        (dict(data=2, fsdp=2, tensor=4), 6, "mesh.data=3 mesh.fsdp=1 mesh.tensor=2"),
        (dict(data=1, fsdp=-1, tensor=8), 2, "mesh.tensor=2"),
    ],
)
def test_the_overrides_that_it_names_fit(sizes, num_devices, changes):
    with pytest.raises(ValueError, match="must multiply to the number of devices") as error:
        meshes.shape(meshes.Config(**sizes), num_devices)
    found = dict(re.findall(r"--config\.mesh\.(\w+)=(\d+)", str(error.value)))
    assert " ".join(f"mesh.{axis}={size}" for axis, size in found.items()) == changes
    fixed = meshes.shape(meshes.Config(**sizes | {axis: int(size) for axis, size in found.items()}), num_devices)
    assert math.prod(fixed) == num_devices


@pytest.mark.parametrize("size", [0, -2])
def test_a_size_below_one_is_refused(size):
    with pytest.raises(ValueError, match=f"fsdp={size} must be at least 1, or -1"):
        meshes.Config(fsdp=size)


def test_two_open_axes_are_refused():
    with pytest.raises(ValueError, match="data, tensor: only one axis may be -1"):
        meshes.Config(data=-1, tensor=-1)


def test_a_mesh_has_the_six_axes_and_all_devices():
    assert dict(MESH.shape) == {"data": 2, "stage": 1, "fsdp": 2, "expert": 1, "context": 1, "tensor": 2}
    assert set(MESH.devices.flat) == set(jax.devices())


@pytest.mark.parametrize(
    ("axes", "dims", "expected"),
    [
        (("embed", "heads", "head_dim"), (4, 6, 5), P("fsdp", "tensor", None)),
        (("embed", "heads", "head_dim"), (3, 6, 5), P(None, "tensor", None)),
        (("embed", "hidden"), (4, 7), P("fsdp", None)),
        (("vocab", "embed"), (8, 2), P("tensor", "fsdp")),
        (("batch", None, None), (8, 3, 4), P(("data", "fsdp"), None, None)),
        (("batch", None, "hidden"), (4, 4, 4), P(("data", "fsdp"), None, "tensor")),
        (("batch",), (6,), P(None)),
        (("layers", "experts", "embed", "hidden"), (2, 4, 4, 4), P(None, None, "fsdp", "tensor")),
        (("hidden", "hidden"), (4, 4), P("tensor", None)),
        (("embed", "embed"), (4, 4), P("fsdp", None)),
        ((), (), P()),
    ],
)
def test_the_rules_place(axes, dims, expected):
    assert meshes.spec(axes, dims, MESH) == expected


@pytest.mark.parametrize(
    ("axes", "dims", "expected"),
    [
        (("experts", "embed", "hidden"), (4, 4, 4), P("expert", "fsdp", "tensor")),
        (("experts", "embed", "hidden"), (3, 4, 4), P(None, ("fsdp", "expert"), "tensor")),
        (("embed", "heads", "head_dim"), (4, 6, 5), P(("fsdp", "expert"), "tensor", None)),
        (("embed", "experts"), (4, 4), P(("fsdp", "expert"), None)),
        (("batch", None, "hidden"), (8, 3, 4), P(("fsdp", "expert"), None, "tensor")),
    ],
)
def test_the_axis_expert_splits_experts_and_the_batch_and_all_weights_without_experts(axes, dims, expected):
    assert meshes.spec(axes, dims, EXPERTS) == expected


@pytest.mark.parametrize(
    ("axes", "dims", "expected"),
    [
        (("batch", "sequence", "hidden"), (8, 12, 4), P("data", "context", None)),
        (("batch", "sequence", "hidden"), (8, 11, 4), P("data", None, None)),
        (("embed", "hidden"), (4, 4), P("context", None)),
    ],
)
def test_the_axis_context_splits_the_tokens_of_rows_and_all_weights(axes, dims, expected):
    assert meshes.spec(axes, dims, CONTEXT) == expected


@pytest.mark.parametrize(
    ("axes", "dims", "expected"),
    [
        (("layers", "embed", "hidden"), (4, 4, 4), P("stage", "fsdp", None)),
        (("embed", "hidden"), (4, 4), P(("stage", "fsdp"), None)),
        (("batch", "sequence"), (8, 3), P(("data", "stage", "fsdp"), None)),
    ],
)
def test_the_axis_stage_splits_layers_and_the_batch_and_all_other_weights(axes, dims, expected):
    assert meshes.spec(axes, dims, STAGES) == expected


def test_rows_that_context_does_not_divide_are_refused():
    meshes.must_split(12, CONTEXT)
    with pytest.raises(ValueError, match="seq_len=14 must be a multiple of mesh.context=4"):
        meshes.must_split(14, CONTEXT)


def test_a_mesh_axis_of_size_one_places_nothing():
    mesh = meshes.make(meshes.Config(data=8))
    assert meshes.spec(("batch", "embed", "heads"), (8, 8, 8), mesh) == P("data", None, None)


def test_an_axis_without_a_rule_is_refused():
    with pytest.raises(ValueError, match="axis 'head' has no rule; there are batch, sequence, embed"):
        meshes.spec(("head",), (4,), MESH)


@pytest.mark.parametrize(("sizes", "batch", "weights"), [(dict(data=4, fsdp=2), 8, 2), (dict(fsdp=2, expert=4), 8, 8)])
def test_the_batch_is_split_over_all_axes_but_tensor_and_weights_over_fsdp_and_expert(sizes, batch, weights):
    mesh = meshes.make(meshes.Config(**sizes))
    assert (meshes.batch_shards(mesh), meshes.weight_shards(mesh)) == (batch, weights)


def test_one_process_loads_all_rows():
    assert meshes.process_shard(MESH, 12) == (0, 1)


def test_a_batch_that_does_not_split_evenly_is_refused():
    rule = re.escape("batch_size=6 must be a multiple of mesh.data * mesh.stage * mesh.fsdp * mesh.expert = 4")
    with pytest.raises(ValueError, match=rule):
        meshes.process_shard(MESH, 6)


def test_a_global_batch_holds_the_rows_in_order():
    rows = np.arange(24).reshape(8, 3)
    batch = meshes.global_batch({"tokens": rows}, MESH)["tokens"]
    np.testing.assert_array_equal(batch, rows)
    assert batch.sharding.spec == P(("data", "stage", "fsdp", "expert"))


def test_the_tokens_of_a_global_batch_are_split_where_they_can_be():
    batch = {"tokens": np.arange(24).reshape(2, 12), "places": np.arange(6).reshape(2, 3), "labels": np.arange(2)}
    placed = meshes.global_batch(batch, CONTEXT)
    for name, shard in (("tokens", (1, 3)), ("places", (1, 3)), ("labels", (1,))):
        np.testing.assert_array_equal(placed[name], batch[name])
        assert placed[name].sharding.shard_shape(batch[name].shape) == shard


def test_constrain_without_a_mesh_returns_its_argument():
    x = jnp.ones((4, 3))
    assert meshes.constrain(x, "batch", None) is x


def test_constrain_on_a_mesh_places_by_the_rules():
    with jax.set_mesh(MESH):
        out = jax.jit(lambda x: meshes.constrain(x, "batch", "hidden"))(jnp.ones((4, 6)))
    assert out.sharding.spec == P(("data", "fsdp"), "tensor")


def test_the_platform_is_that_of_the_mesh_or_the_default_device():
    assert meshes.platform() == "cpu"
    with jax.set_mesh(MESH):
        assert meshes.platform() == "cpu"


def test_a_batch_of_billions_of_rows_is_split_without_listing_them():
    mesh = meshes.make(meshes.Config())
    assert meshes.process_shard(mesh, 10**12) == (0, 1)
