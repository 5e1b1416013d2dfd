"""The table of a chunked loss is put together for the logits, its gradient split before the layers' begin."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from arch.layers import token_loss
from arch.layers.embedding import Unembedding
from arch.sharding import mesh as meshes

ROWS, LENGTH, VOCAB, WIDTH = 4, 6, 14, 8
MESH = meshes.make(meshes.Config(data=1, fsdp=4, tensor=2))


def loss(x, table):
    """Of tokens that are all alike, four at a time."""
    targets, weights = jnp.ones((ROWS, LENGTH), jnp.int32), jnp.ones((ROWS, LENGTH))
    return token_loss.Config(chunk_tokens=4).tokens(x, Unembedding(table), targets, weights).loss


def test_the_table_s_gradient_is_in_shards_before_the_hidden_states_have_theirs():
    x, table = jnp.ones((ROWS, LENGTH, WIDTH)), jnp.ones((VOCAB, WIDTH))
    with jax.set_mesh(MESH):
        eqns = jax.make_jaxpr(jax.grad(loss, argnums=(0, 1)))(x, table).eqns
    (barrier,) = [
        eqn for eqn in eqns if eqn.primitive.name == "optimization_barrier" and eqn.outvars[1].aval.shape == table.shape
    ]
    (split,) = [eqn for eqn in eqns if barrier.invars[1] in eqn.outvars]
    assert split.primitive.name == "sharding_constraint"
    assert split.params["sharding"].spec == P("tensor", "fsdp")
    (whole,) = [eqn for eqn in eqns if split.invars[0] in eqn.outvars]
    assert whole.params["sharding"].spec == P("tensor", None)


def test_a_mesh_changes_neither_the_loss_nor_its_gradients():
    rng = np.random.default_rng(0)
    x, table = (jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in ((ROWS, LENGTH, WIDTH), (VOCAB, WIDTH)))
    both = jax.value_and_grad(loss, argnums=(0, 1))
    expected = both(x, table)
    with jax.set_mesh(MESH):
        actual = jax.jit(both)(x, jax.device_put(table, NamedSharding(MESH, P("tensor", "fsdp"))))
    jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, rtol=2e-5, atol=2e-6), actual, expected)
