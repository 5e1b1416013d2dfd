"""`arch` modules in NNX code, through `flax.nnx.bridge`: the same values, gradients and axis names as in Linen."""

import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from arch import tree
from arch.ffns import gated_mlp, moe
from arch.layers import block, stack, weight
from arch.layers.contract import Context, positions_of
from arch.mixers import attention
from arch.models import decoder
from arch.sharding import mesh

ATTENTION = attention.Config(num_heads=6, num_kv_heads=2, head_dim=4)
FFN = moe.Config(num_experts=3, top_k=2, hidden_dim=5, bias_rate=0.1)
LAYER = block.Config(sublayers=(ATTENTION, FFN))
CFG = decoder.Config(vocab_size=13, embed_dim=7, layers=stack.Config(pattern=(LAYER,), repeats=2))
TOKENS = jax.random.randint(jax.random.key(1), (2, 5), 0, CFG.vocab_size)


def wrapped(module, *args):
    """The NNX module around a Linen one."""
    return nnx.bridge.ToNNX(module, rngs=nnx.Rngs(0)).lazy_init(*args)


@pytest.fixture(scope="module")
def linen():
    """The Linen decoder and its parameters, in boxes."""
    model = CFG.make()
    return model, jax.jit(model.init)(jax.random.key(2), TOKENS)["params"]


@pytest.fixture(scope="module")
def expected(linen):
    """The logits of the Linen decoder."""
    return linen[0].apply({"params": weight.unbox(linen[1])}, TOKENS).x


@pytest.fixture(scope="module")
def made(linen):
    """The decoder in NNX with the same parameters."""
    model = wrapped(linen[0], TOKENS)
    nnx.update(model, weight.unbox(linen[1]))
    return model


@pytest.fixture
def model(made):
    """A copy of it, to change."""
    return nnx.clone(made)


def loss_of(logits):
    """Some function of the logits."""
    return jnp.mean(jnp.square(logits))


def test_logits_are_those_of_linen(model, expected):
    np.testing.assert_array_equal(model(TOKENS).x, expected)


def test_the_readmes_lines_put_loaded_parameters_into_nnx(linen, expected):
    readme = (pathlib.Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(from flax import nnx.*?)```", readme, flags=re.DOTALL)
    names = {"model": linen[0], "params": tree.unstack(weight.unbox(linen[1])), "tokens": TOKENS}
    exec(compile(code, "README.md", "exec"), names)
    np.testing.assert_array_equal(names["logits"], expected)


def test_parameters_have_the_paths_of_linen(linen, model):
    state = nnx.to_pure_dict(nnx.state(model, nnx.Param))
    assert tree.paths(state).keys() == tree.paths(weight.unbox(linen[1])).keys()


def test_parameters_carry_their_axis_names_and_whether_they_are_trained(linen, model):
    actual = {"/".join(path): (v.axes, v.trainable) for path, v in nnx.to_flat_state(nnx.state(model, nnx.Param))}
    assert actual == {path: (box.axes, box.trainable) for path, box in tree.paths(linen[1]).items()}
    assert any(not trainable for _, trainable in actual.values())


def test_axis_names_shard_what_nnx_holds(model):
    where = mesh.make(mesh.Config(fsdp=1, tensor=2), jax.devices()[:2])
    query = model.layers["scan_0_1"]["0"]["attention"]["query"]
    sharding = mesh.sharding(query.axes, query.shape, where)
    assert sharding.spec == jax.sharding.PartitionSpec(None, None, "tensor", None)


def test_gradients_are_those_of_linen(linen, model):
    trained = nnx.DiffState(0, nnx.All(nnx.Param, lambda _, variable: variable.trainable))
    actual = nnx.grad(lambda model: loss_of(model(TOKENS).x), argnums=trained)(model)
    expected = jax.grad(lambda params: loss_of(linen[0].apply({"params": params}, TOKENS).x))(weight.unbox(linen[1]))
    flat = tree.paths(nnx.to_pure_dict(actual))
    assert flat.keys() == {path for path, box in tree.paths(linen[1]).items() if box.trainable}
    for path, gradient in flat.items():
        np.testing.assert_array_equal(gradient, tree.paths(expected)[path], err_msg=path)


def test_a_compiled_step_of_gradient_descent_lowers_the_loss(model):
    @nnx.jit
    def step(model):
        loss, gradients = nnx.value_and_grad(lambda model: loss_of(model(TOKENS).x))(model)
        nnx.update(model, jax.tree.map(lambda p, g: p - 0.1 * g, nnx.state(model, nnx.Param), gradients))
        return loss

    losses = [float(step(model)) for _ in range(3)]
    assert losses[2] < losses[1] < losses[0]


class Mixed(nnx.Module):
    """An NNX layer of one's own around sublayers of the library."""

    def __init__(self, rngs: nnx.Rngs, x, context):
        self.into = nnx.Linear(x.shape[-1], 7, rngs=rngs)
        inner = self.into(x)
        self.mixer = nnx.bridge.ToNNX(ATTENTION.make(), rngs=rngs).lazy_init(inner, context)
        self.ffn = nnx.bridge.ToNNX(gated_mlp.Config(hidden_dim=5).make(), rngs=rngs).lazy_init(inner, context)

    def __call__(self, x, context, cache=None):
        x = self.into(x)
        out = self.mixer(x, context, cache)
        return self.ffn(x + out.x, context).x, out.cache


@pytest.fixture(scope="module")
def mixed():
    """The layer, an input and its context."""
    x = jax.random.normal(jax.random.key(3), (2, 5, 3))
    context = Context(positions=positions_of(TOKENS))
    return Mixed(nnx.Rngs(0), x, context), x, context


def test_sublayers_in_an_nnx_module_compute_what_linen_does(mixed):
    layer, x, context = mixed
    inner = layer.into(x)
    mixer, ffn = (nnx.to_pure_dict(nnx.state(part, nnx.Param)) for part in (layer.mixer, layer.ffn))
    expected = inner + ATTENTION.make().apply({"params": mixer}, inner, context).x
    expected = gated_mlp.Config(hidden_dim=5).make().apply({"params": ffn}, expected, context).x
    np.testing.assert_array_equal(layer(x, context)[0], expected)


def test_a_cache_goes_through_an_nnx_module_as_a_value(mixed):
    layer, x, context = mixed
    cache, steps = ATTENTION.init_cache(2, 5, 7, jnp.float32), []
    for i in range(5):
        out, cache = layer(x[:, i : i + 1], Context(positions=context.positions[:, i : i + 1]), cache)
        steps.append(out)
    np.testing.assert_allclose(jnp.concatenate(steps, axis=1), layer(x, context)[0], atol=1e-6)
