"""A function that runs shard by shard gives what it gives on whole arrays."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arch.sharding import mesh as meshes
from arch.sharding.per_shard import per_shard

MESH = meshes.make(meshes.Config(data=2, fsdp=2, tensor=2))
ROWS = ("batch", None)


def _normal(shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


def _product(x, up, down, seen=None):
    """Two products whose inner axis may be split: the result is then a partial sum."""

    def function(x, up, down):
        if seen is not None:
            seen.append((x.shape, up.shape, down.shape))
        return (x @ up) @ down

    return per_shard(function, (x, up, down), (ROWS, (None, "hidden"), ("hidden", None)), ROWS, reduce="hidden")


def _arrays(rows, hidden):
    return _normal((rows, 5)), _normal((5, hidden), 1), _normal((hidden, 3), 2)


@pytest.mark.parametrize(("rows", "hidden"), [(8, 6), (8, 7), (6, 6), (3, 7)])
def test_the_result_is_that_of_whole_arrays(rows, hidden):
    arrays = _arrays(rows, hidden)
    with jax.set_mesh(MESH):
        out = jax.jit(_product)(*arrays)
    np.testing.assert_allclose(out, arrays[0] @ arrays[1] @ arrays[2], atol=1e-5)


@pytest.mark.parametrize(("rows", "hidden"), [(8, 6), (3, 7)])
def test_gradients_are_those_of_whole_arrays(rows, hidden):
    arrays = _arrays(rows, hidden)
    gradient = jax.grad(lambda *arrays: jnp.sum(jnp.sin(_product(*arrays))), argnums=(0, 1, 2))
    expected = gradient(*arrays)
    with jax.set_mesh(MESH):
        actual = jax.jit(gradient)(*arrays)
    for a, b in zip(actual, expected, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_each_shard_sees_its_own_part():
    seen = []
    with jax.set_mesh(MESH):
        jax.jit(lambda *arrays: _product(*arrays, seen=seen))(*_arrays(8, 6))
    assert set(seen) == {((2, 5), (5, 3), (3, 3))}


def test_without_a_mesh_the_function_is_called_directly():
    seen = []
    _product(*_arrays(8, 6), seen=seen)
    assert seen == [((8, 5), (5, 6), (6, 3))]
