"""A mixture whose experts' weights are int8 gives what their rounded weights give, by every dispatch, and generates."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arch import config, tree
from arch.decode import generate
from arch.layers.contract import Context, positions_of
from arch.layers.weight import unbox
from arch.models import decoder
from arch.ops.int8 import Int8, dequantized, quantize_experts
from arch.sharding import mesh as meshes

MOE = dict(name="moe", num_experts=4, top_k=2, hidden_dim=6)
TOKENS = jnp.asarray([[3, 1, 4, 1, 5], [9, 2, 6, 5, 3]], jnp.int32)


def model(dispatch="grouped"):
    attention = dict(name="attention", num_heads=2, head_dim=4)
    layers = dict(pattern=(dict(sublayers=(attention, MOE | dict(dispatch=dispatch))),))
    return config.from_dict(decoder.Config, dict(vocab_size=13, embed_dim=8, layers=layers)).make()


def logits(made, params):
    context = Context(positions_of(TOKENS))
    return jax.jit(lambda params: made.apply({"params": params}, TOKENS, context).x)(params)


@pytest.fixture(scope="module")
def int8():
    """Parameters in canonical form, those of the experts in int8."""
    init = jax.jit(model().init)(jax.random.key(0), TOKENS, Context(positions_of(TOKENS)))
    return quantize_experts(tree.unstack(unbox(init["params"])))


@pytest.fixture(scope="module")
def rounded(int8):
    """What these stand for."""
    return jax.tree.map(lambda leaf: dequantized(leaf, jnp.float32), int8, is_leaf=lambda leaf: isinstance(leaf, Int8))


@pytest.fixture(scope="module")
def expected(rounded):
    return logits(model(), rounded)


@pytest.mark.parametrize(
    "dispatch", ["grouped", *(pytest.param(name, marks=pytest.mark.slow) for name in ("gathered", "dense"))]
)
def test_the_logits_are_those_of_the_rounded_weights(dispatch, int8, expected):
    np.testing.assert_allclose(logits(model(dispatch), int8), expected, atol=1e-5)


def test_experts_in_int8_are_split_over_devices(int8, expected):
    with jax.set_mesh(meshes.make(meshes.Config(data=2, expert=2, tensor=2))):
        found = logits(model(), int8)
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.slow
def test_generation_takes_them(int8, rounded):
    how, key = generate.Config(max_new_tokens=4, temperature=0.0), jax.random.key(0)
    new = [generate.generate(model(), params, [[3, 1, 4], [9]], how, key=key) for params in (int8, rounded)]
    assert new[0] == new[1]
