"""A checkpoint streams onto any mesh, canonical or as the trainer holds it, to the same values."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from arch import tree
from arch.sharding import mesh as meshes
from arch.train import state
from arch.weights import pretrained
from tests.weights import tiny

pytestmark = pytest.mark.usefixtures("tiny_family")


@pytest.fixture(scope="module")
def mesh():
    return meshes.make(meshes.Config(data=2, fsdp=2, tensor=2))


def same(first, second):
    a, b = tree.paths(first), tree.paths(second)
    return a.keys() == b.keys() and all(np.array_equal(a[path], b[path]) for path in a)


def shardings(params):
    return {path: (leaf.shape, leaf.dtype, leaf.sharding) for path, leaf in tree.paths(params).items()}


def test_the_canonical_form_lies_on_a_mesh_as_the_rules_place_it(folder, mesh, scanned):
    _, params = pretrained.load(folder, mesh=mesh)
    assert same(params, tree.unstack(scanned))
    specs = {path: leaf.sharding.spec for path, leaf in tree.paths(params).items()}
    assert specs["layers/1/attention/query"] == jax.sharding.PartitionSpec("fsdp", "tensor", None)
    assert specs["layers/0/moe/down"] == jax.sharding.PartitionSpec(None, "tensor", "fsdp")


def test_the_scanned_form_lies_where_the_trainer_wants_it(folder, mesh, scanned):
    wanted = state.plan(tiny.compose().make(), optax.sgd(0.1), mesh).abstract.params
    _, params = pretrained.load(folder, wanted)
    assert same(params, scanned)
    assert shardings(params) == shardings(wanted)


def test_leaves_take_the_types_that_the_target_says(folder):
    wanted = pretrained.canonical(tiny.compose(), None, "bfloat16")
    leaf = tree.paths(wanted)["norm/scale"]
    wanted["norm"]["scale"] = jax.ShapeDtypeStruct(leaf.shape, jnp.float32, sharding=leaf.sharding)
    _, params = pretrained.load(folder, wanted)
    assert params["norm"]["scale"].dtype == jnp.float32 and params["embedding"]["table"].dtype == jnp.bfloat16


def test_a_target_of_another_model_raises_naming_the_leaves(folder):
    with pytest.raises(ValueError, match=r"layers/0/moe/down is \(3, 20, 8\), not \(3, 10, 8\)"):
        pretrained.load(folder, pretrained.canonical(tiny.compose(hidden_dim=20)))


def test_a_target_that_lacks_a_leaf_raises(folder):
    wanted = pretrained.canonical(tiny.compose())
    del wanted["norm"]
    with pytest.raises(ValueError, match=r"norm/scale is missing, not \(8,\)"):
        pretrained.load(folder, wanted)
