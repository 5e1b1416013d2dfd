"""Upcycling: the mixture computes what the dense model does, nothing else is touched, and it can be undone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arch import tree
from arch.adapt.experts import drop_experts, merge_experts
from arch.adapt.upcycle import upcycle, upcycle_to, with_mixtures
from arch.ffns import gated_mlp, mlp, moe
from arch.layers import block, stack
from arch.layers.weight import unbox
from arch.mixers import attention
from arch.models import decoder
from arch.routers import gshard, sigmoid, soft, top_k
from tests.contracts.sublayers import jit, random_like
from tests.families import fit

KEY = jax.random.key(0)
TOKENS = jnp.arange(10, dtype=jnp.int32).reshape(2, 5)
EXPERTS = moe.Config(num_experts=3, top_k=2, hidden_dim=7)
MIXER = attention.Config(num_heads=2, head_dim=2)


def model_of(*ffns, **fields) -> decoder.Config:
    """A decoder of two layers a period, with random parameters by canonical path."""
    blocks = tuple(block.Config(sublayers=(MIXER, ffn), **fields) for ffn in ffns)
    return decoder.Config(vocab_size=11, embed_dim=5, layers=stack.Config(pattern=blocks, repeats=2))


def parameters(model) -> tree.Tree:
    boxes = jax.eval_shape(model.make().init, KEY, TOKENS)["params"]
    return random_like(jax.eval_shape(tree.unstack, unbox(boxes)))


def logits(model, params) -> np.ndarray:
    return np.asarray(jit(model.make().apply)({"params": params}, TOKENS).x)


def of(model, params) -> dict:
    """What both trees must agree in: the paths and shapes that the model declares."""
    assert {path: leaf.shape for path, leaf in tree.paths(params).items()} == {
        path: leaf.shape for path, leaf in fit.shapes(model).items()
    }
    return tree.paths(params)


DENSE = model_of(gated_mlp.Config(hidden_dim=7))
PARAMS = parameters(DENSE)


@pytest.fixture(scope="module")
def upcycled():
    return upcycle(DENSE, PARAMS, EXPERTS, key=KEY)


@pytest.fixture(scope="module")
def expected():
    return logits(DENSE, PARAMS)


def test_the_first_step_of_a_mixture_is_the_dense_model_s(upcycled, expected):
    np.testing.assert_allclose(logits(*upcycled), expected, atol=1e-5)


def test_only_the_ffns_are_touched(upcycled):
    paths = of(*upcycled)
    for path, leaf in tree.paths(PARAMS).items():
        if "gated_mlp/" not in path:
            assert paths[path.replace("gated_mlp_norm", "moe_norm")] is leaf


def test_a_layer_alone_is_changed_where_it_is_asked_for():
    plain = model_of(mlp.Config(hidden_dim=7, activation="relu"), placement="sandwich")
    experts = EXPERTS.replace(gated=False, activation="relu", router=sigmoid.Config(), bias_rate=0.01)
    params = parameters(plain)
    model, changed = upcycle(plain, params, experts, key=KEY, layers=(1,))
    assert [layer.labels[1] for layer in model.layers.blocks] == ["mlp", "moe"]
    assert of(model, changed)["layers/0/mlp/up"] is params["layers"]["0"]["mlp"]["up"]
    np.testing.assert_allclose(logits(model, changed), logits(plain, params), atol=1e-5)


def test_periods_are_found_again():
    model = model_of(*[gated_mlp.Config(hidden_dim=7)] * 2)
    every_other = upcycle(model, parameters(model), EXPERTS, key=KEY, layers=(1, 3))[0].layers
    assert (len(every_other.pattern), every_other.repeats) == (2, 2)


def test_routers_of_different_layers_start_differently(upcycled):
    paths = tree.paths(upcycled[1])
    assert not np.array_equal(paths["layers/0/moe/router"], paths["layers/1/moe/router"])


def test_noise_is_a_share_of_each_matrix_and_another_for_each_expert():
    wide = model_of(gated_mlp.Config(hidden_dim=997))
    params = parameters(wide)
    experts = EXPERTS.replace(hidden_dim=997)
    noisy = tree.paths(upcycle(wide, params, experts, key=KEY, noise=0.25, layers=(0,))[1])
    for name in ("gate", "up", "down"):
        dense = params["layers"]["0"]["gated_mlp"][name]
        change = noisy[f"layers/0/moe/{name}"] - dense
        np.testing.assert_allclose(np.std(change, axis=(1, 2)), 0.25 * np.std(dense), rtol=0.05)
        assert abs(np.corrcoef(change[0].ravel(), change[1].ravel())[0, 1]) < 0.1


def test_merging_undoes_upcycling(upcycled):
    model, params = merge_experts(*upcycled, {i: jnp.array([1.0, 3.0, 5.0]) for i in range(2)})
    assert model == DENSE
    for path, leaf in of(model, params).items():
        np.testing.assert_allclose(leaf, tree.paths(PARAMS)[path], atol=1e-6)


def test_merging_weighs_experts_by_their_use():
    model = model_of(EXPERTS)
    params = parameters(model)
    up = params["layers"]["1"]["moe"]["up"]
    _, merged = merge_experts(model, params, {1: jnp.array([1.0, 0.0, 3.0])})
    np.testing.assert_allclose(merged["layers"]["1"]["gated_mlp"]["up"], (up[0] + 3 * up[2]) / 4, rtol=1e-5)
    assert merged["layers"]["0"] is params["layers"]["0"]


def test_dropping_experts_that_nobody_uses_changes_nothing():
    model = model_of(EXPERTS.replace(num_experts=5, router=sigmoid.Config(), bias_rate=0.01))
    params = tree.from_paths(
        tree.paths(parameters(model))
        | {f"layers/{i}/moe/router_bias": jnp.array([9.0, 0.0, 9.0, 0.0, 0.0]) for i in range(2)}
    )
    load = jnp.array([7.0, 0.0, 5.0, 1.0, 0.0])
    fewer, kept = drop_experts(model, params, {0: load, 1: load}, keep=3)
    assert fewer.layers.pattern[0].sublayers[1].num_experts == 3
    before, after = tree.paths(params), of(fewer, kept)
    np.testing.assert_array_equal(after["layers/1/moe/down"], before["layers/1/moe/down"][jnp.array([0, 2, 3])])
    np.testing.assert_allclose(logits(fewer, kept), logits(model, params), atol=1e-5)


@pytest.mark.parametrize("fields, message", [
    ({"renormalize": False}, "renormalize=False must be 0 and True"),
    ({"shared_dim": 3}, "shared_dim=3 and renormalize=True must be 0 and True"),
    ({"router": top_k.Config(scale=2.0)}, "scale=2.0 of router='top_k' must be 1: weights must sum to one"),
    ({"router": gshard.Config(random_second=False)}, "capacity_factor=1.0 of router='gshard' must be at least"),
    ({"router": gshard.Config(capacity_factor=1.5)}, "random_second=True of router='gshard' must be False"),
    (dict(top_k=3, dispatch="dense", balance_weight=0.0, z_weight=0.0, router=soft.Config()), "router='soft' must"),
    ({"hidden_dim": 3}, "hidden_dim=3 of the experts must be 7, the dense ffn's"),
    ({"activation": "relu"}, "activation='relu' of the experts must be 'silu'"),
    ({"gated": False}, "gated=False of the experts must be True"),
])  # fmt: skip
def test_a_mixture_that_could_not_compute_the_same_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        upcycle(DENSE, PARAMS, EXPERTS.replace(**fields), key=KEY)


def test_the_mixtures_of_another_model_s_config_take_the_place_of_its_ffns(upcycled):
    model = model_of(*[gated_mlp.Config(hidden_dim=7)] * 2)
    several = {1: EXPERTS, 2: EXPERTS.replace(num_experts=5, router=sigmoid.Config())}
    ffns = [several.get(i, gated_mlp.Config(hidden_dim=7)) for i in range(4)]
    target = model.replace(layers=model_of(*ffns).layers.replace(repeats=1))
    params = parameters(model)
    other, changed = upcycle_to(model, params, target, key=KEY)
    assert other == target
    np.testing.assert_allclose(logits(other, changed), logits(model, params), atol=1e-5)


def test_a_target_of_other_layers_or_without_mixtures_is_refused():
    with pytest.raises(ValueError, match="the model's 4 layers must be 2, as many as the dense model's"):
        upcycle_to(DENSE, PARAMS, model_of(EXPERTS, EXPERTS), key=KEY)
    with pytest.raises(ValueError, match="no layer of the model has a mixture of experts where"):
        upcycle_to(DENSE, PARAMS, DENSE, key=KEY)


def test_mixtures_as_wide_as_the_ffns_take_their_place(upcycled):
    assert with_mixtures(DENSE, num_experts=3, top_k=2) == upcycled[0]


def test_a_layer_without_an_ffn_of_its_own_is_refused(upcycled):
    with pytest.raises(ValueError, match="layer 0 must hold one mlp or gated_mlp, .*; it is \\('attention', 'moe'\\)"):
        upcycle(*upcycled, EXPERTS, key=KEY)
    with pytest.raises(ValueError, match=r"layers=\(2,\) must be from 0 to 1"):
        upcycle(DENSE, PARAMS, EXPERTS, key=KEY, layers=(2,))


def test_a_load_that_is_no_share_is_refused(upcycled):
    for load in ([0.0, 0.0, 0.0], [1.0, -1.0, 1.0], [1.0, 1.0]):
        with pytest.raises(ValueError, match=r"load\[0\]=.* must be num_experts=3 shares"):
            merge_experts(*upcycled, {0: jnp.array(load)})
