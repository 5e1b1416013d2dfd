"""In float64, a recurrence over split rows is the one over whole rows, and so are its gradients, weak decays or strong."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arch.mixers import _recurrence
from arch.ops.linear_attention.recurrence import linear_attention
from arch.sharding import mesh as meshes

DOCUMENTS = (5, 9, 10)
ROWS, TOKENS, HEADS, KEYS, VALUES = 2, sum(DOCUMENTS), 2, 3, 5


def value_and_gradients(function, reset):
    weigh = jnp.cos(jnp.arange(ROWS * TOKENS * HEADS * VALUES, dtype=jnp.float64)).reshape(ROWS, TOKENS, HEADS, VALUES)
    objective = lambda *arrays: jnp.sum(weigh * function(*arrays, reset=reset, chunk=4)[0])
    return jax.jit(jax.value_and_grad(objective, argnums=(0, 1, 2, 3)))


@pytest.mark.slow
@pytest.mark.parametrize("packed", [False, True], ids=["whole", "packed"])
@pytest.mark.parametrize("strength", [1.0, 30.0])
def test_decays_of_each_channel_and_their_gradients_are_those_of_whole_rows(strength, packed):
    with jax.enable_x64():
        rng = np.random.default_rng(0)
        draw = lambda channels: jnp.asarray(rng.standard_normal((ROWS, TOKENS, HEADS, channels)))
        decays = -strength * jnp.asarray(rng.random((ROWS, TOKENS, HEADS, KEYS)))
        arrays = draw(KEYS), draw(KEYS), draw(VALUES), decays
        begins = np.isin(np.arange(TOKENS), np.cumsum((0, *DOCUMENTS)))
        reset = jnp.asarray(np.broadcast_to(begins, (ROWS, TOKENS))) if packed else None
        expected = value_and_gradients(linear_attention, reset)(*arrays)
        mesh = meshes.make(meshes.Config(data=1, context=4), jax.devices()[:4])
        place = meshes.sharding(("batch", "sequence", None, None), decays.shape, mesh)
        with jax.set_mesh(mesh):
            placed = (jax.device_put(array, place) for array in arrays)
            actual = value_and_gradients(_recurrence.linear_attention, reset)(*placed)
        for mine, other in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(mine, other, rtol=0, atol=1e-13 * np.max(np.abs(other)))
