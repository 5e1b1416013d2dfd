"""A model's routes, recorded and replayed: each layer has its own back, and others would be seen."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arch.ffns import mlp, moe
from arch.layers import block, stack
from arch.layers.contract import Routes
from arch.layers.weight import unbox
from arch.models import decoder
from arch.routers import expert_choice, replay, soft, switch
from arch.train import routes
from arch.train.objective import context_of, objective
from tests.contracts.sublayers import jit, random_like

TOKENS = jnp.asarray(np.random.default_rng(0).integers(13, size=(2, 7)))
BATCH = {"tokens": TOKENS, "positions": jnp.broadcast_to(jnp.arange(7), (2, 7))}
MLP = mlp.Config(hidden_dim=3)
LAYER = moe.Config(num_experts=5, top_k=2, hidden_dim=3)
RECORDED = LAYER.replace(router=replay.Config(weights="recorded"))


def model_of(layer, *, dense=MLP):
    """A layer without a mixture, then periods of a mixture and none: layers 1, 3 and 5 of 0 to 6 have one."""
    one, other = (block.Config(sublayers=(ffn,)) for ffn in (layer, dense))
    layers = stack.Config(prefix=(other,), pattern=(one, other), repeats=3)
    return decoder.Config(vocab_size=13, embed_dim=7, layers=layers)


def parameters(model):
    return random_like(unbox(jax.eval_shape(model.make().init, jax.random.key(0), TOKENS)["params"]), scale=1.0)


PARAMS = parameters(model_of(LAYER))


@jit
def _recorded(params):
    return routes.record(model_of(LAYER), params, BATCH)


@jit
def _replayed(params, given):
    model, batch = model_of(RECORDED), BATCH | routes.fields(given)
    return model.make().apply({"params": params}, TOKENS, context_of(batch, None)).x


@pytest.fixture(scope="module")
def recorded():
    return _recorded(PARAMS)


@pytest.fixture(scope="module")
def plain():
    return jit(model_of(LAYER).make().apply)({"params": PARAMS}, TOKENS).x


def test_the_layers_of_a_record_are_the_model_s(recorded):
    experts = np.asarray(recorded.experts)
    assert experts.shape == recorded.weights.shape == (2, 7, 7, 2)
    assert np.all(experts[:, :, [0, 2, 4, 6]] == -1) and np.all(experts[:, :, [1, 3, 5]] >= 0)
    np.testing.assert_allclose(np.sum(recorded.weights, axis=-1)[:, :, [1, 3, 5]], 1, rtol=1e-5)
    assert np.any(experts[:, :, 1] != experts[:, :, 3])
    routes.must_suit(recorded, model_of(LAYER))


def test_a_record_given_back_is_the_same_pass(recorded, plain):
    np.testing.assert_allclose(_replayed(PARAMS, recorded), plain, rtol=1e-5, atol=1e-5)


WRONG = {
    "a layer's": lambda leaf: jnp.roll(leaf, 2, axis=2),
    "another token's": lambda leaf: jnp.roll(leaf, 1, axis=1),
    "another row's": lambda leaf: leaf[::-1],
}


@pytest.mark.parametrize("wrong", WRONG)
def test_another_route_is_another_pass(wrong, recorded, plain):
    other = _replayed(PARAMS, jax.tree.map(WRONG[wrong], recorded))
    assert np.max(np.abs(other - plain)) > 0.1


def test_a_model_with_other_routers_follows_the_record(recorded):
    """Its own top-k would send tokens elsewhere: routers of other values, experts of the same."""
    paths = jax.tree_util.tree_map_with_path(
        lambda path, leaf: -leaf if path[-1].key == "router" else leaf, PARAMS
    )
    own = _recorded(paths)
    assert np.any(own.experts != recorded.experts)
    np.testing.assert_allclose(_replayed(paths, recorded), _replayed(PARAMS, recorded), rtol=1e-5, atol=1e-5)


def test_a_training_step_reads_the_routes_of_its_batch(recorded):
    batch = BATCH | {"targets": TOKENS, "weights": jnp.ones(TOKENS.shape)} | routes.fields(recorded)
    step = jit(lambda batch, key: objective(model_of(RECORDED).make(), PARAMS, batch, {"tokens": 1.0}, key)[1]["stats"])
    stats = step(batch, jax.random.key(0))
    for layer in (1, 3, 5):
        load = np.bincount(np.asarray(recorded.experts)[:, :, layer].ravel(), minlength=5) / 2
        np.testing.assert_allclose(stats[f"layers/{layer}/moe/expert_load"], load)


@pytest.mark.parametrize(
    "layer",
    [
        LAYER.replace(top_k=1, renormalize=False, router=switch.Config(eval_capacity_factor=0.5)),
        LAYER.replace(renormalize=False, balance_weight=0.0, router=expert_choice.Config()),
    ],
    ids=["switch", "expert_choice"],
)
def test_dropped_tokens_and_experts_own_choices_are_replayed_too(layer):
    def both(params):
        given = routes.record(model_of(layer), params, BATCH)
        plain = model_of(layer).make().apply({"params": params}, TOKENS).x
        context = dataclasses.replace(context_of(BATCH, None), routes=given)
        return given, plain, model_of(RECORDED).make().apply({"params": params}, TOKENS, context).x

    given, plain, again = jit(both)(PARAMS)
    assert np.any(np.asarray(given.experts)[:, :, 1] == -1)
    np.testing.assert_allclose(plain, again, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: x[:, :, :5], "the routes are of 5 layers, and must be of 7, the model's"),
        (lambda x: x.at[0, 0, 3, 1].set(5), "expert 5 of layer 3 must be from -1 to 4, the experts that it has"),
        (lambda x: x.at[0, 0, 3, 1].set(-2), "expert -2 of layer 3 must be from -1 to 4"),
        (lambda x: x.at[0, 0, 2, 0].set(0), "expert 0 of layer 2 must be from -1 to -1"),
        (lambda x: x.at[0, 0, 1].set(2), "a token of layer 1 has an expert twice"),
    ],
)
def test_a_record_that_a_model_could_not_compute_is_refused(change, message, recorded):
    with pytest.raises(ValueError, match=message):
        routes.must_suit(Routes(change(recorded.experts), change(recorded.weights)), model_of(LAYER))


SOFT = LAYER.replace(top_k=5, dispatch="dense", balance_weight=0.0, z_weight=0.0, router=soft.Config())
TWICE = stack.Config(pattern=tuple(block.Config(sublayers=parts) for parts in ((MLP,), (LAYER, LAYER))))


def test_what_cannot_be_recorded_is_refused():
    for model, message in (
        (model_of(MLP), "the model has no mixture of experts whose routes could be recorded"),
        (model_of(SOFT), "router='soft' of layers/1 mixes tokens"),
        (model_of(LAYER).replace(layers=TWICE), "layers/1/moe_1 must be the one mixture of a layer"),
    ):
        with pytest.raises(ValueError, match=message):
            routes.must_record(model)


def test_routes_of_other_tokens_are_refused():
    wrong = Routes(jnp.zeros((2, 6, 7, 2), jnp.int32), jnp.zeros((2, 6, 7, 2)))
    with pytest.raises(ValueError, match=r"routes of \(2, 6\) rows and tokens must be of \(2, 7\) with"):
        jax.eval_shape(_replayed, PARAMS, wrong)
