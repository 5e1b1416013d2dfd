"""The mixture of experts drops no token, ignores padding, tells its losses and balances by its bias."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arch import tree
from arch.ffns import mlp, moe
from arch.layers import block, stack
from arch.layers.contract import positions_of
from arch.layers.weight import trainable, unbox
from arch.models import decoder
from arch.sharding import mesh as meshes
from arch.train.gradient import gradient_of
from tests.contracts.sublayers import Case, context, holds, inputs, jit, random_like

CONFIGS = (
    moe.Config(num_experts=5, top_k=2, hidden_dim=3),
    moe.Config(num_experts=5, top_k=3, hidden_dim=3, renormalize=False, bias_rate=0.1),
)


def _oracle(cfg, params, x):
    """Token by token, expert by expert, in float64."""
    p = {name: np.asarray(value, np.float64) for name, value in params.items()}
    out = np.zeros(x.shape)
    for row, t in np.ndindex(*x.shape[:2]):
        token = np.asarray(x[row, t], np.float64)
        scores = np.exp(token @ p["router"])
        scores /= scores.sum()
        chosen = np.argsort(-(scores + p.get("router_bias", 0)), kind="stable")[: cfg.top_k]
        weights = scores[chosen] / (scores[chosen].sum() if cfg.renormalize else 1)
        for weight, e in zip(weights, chosen, strict=True):
            gate = token @ p["gate"][e]
            out[row, t] += weight * ((gate / (1 + np.exp(-gate)) * (token @ p["up"][e])) @ p["down"][e])
    return out


@pytest.fixture(scope="module", params=CONFIGS, ids=["renormalized", "biased"])
def case(request) -> Case:
    return Case(request.param)


def test_no_token_is_dropped(case):
    assert holds(case.full, _oracle(case.cfg, case.params, inputs()))


def test_no_token_is_dropped_when_all_choose_the_same_experts():
    case = Case(CONFIGS[0])
    case.params["router"] = jnp.ones_like(case.params["router"])  # ties go to experts 0 and 1
    assert holds(case.full, _oracle(case.cfg, case.params, inputs()))
    load = case(inputs(), context(inputs())).aux.stats["expert_load"]
    np.testing.assert_allclose(load, [21, 21, 0, 0, 0])  # tokens of a row


def test_loads_count_a_row_s_choices(case):
    load = case(inputs(), context(inputs())).aux.stats["expert_load"]
    assert load.shape == (5,)
    np.testing.assert_allclose(load.sum(), case.cfg.top_k * 21, rtol=1e-6)


def test_no_token_is_reported_as_dropped(case):
    assert case(inputs(), context(inputs())).aux.stats["sum_dropped"] == 0


def test_statistics_hold_the_losses_without_their_weights(case):
    aux = case(inputs(), context(inputs())).aux
    for name, weight in (("balance", case.cfg.balance_weight), ("router_z", case.cfg.z_weight)):
        np.testing.assert_allclose(weight * aux.stats[name], aux.losses[name], rtol=1e-6)


@pytest.mark.parametrize("kind", ["valid", "segment_ids"])
def test_padding_reaches_neither_loads_nor_losses(case, kind):
    x, lengths = inputs(), np.asarray([13, 21, 8])
    real = jnp.arange(21)[None] < lengths[:, None]
    fields = {"valid": real} if kind == "valid" else {"segment_ids": real.astype(jnp.int32)}
    padded = lambda filling: case(jnp.where(real[..., None], x, filling), context(x, **fields))
    first, second = padded(0.0), padded(7.0)
    for a, b in zip(jax.tree.leaves(first.aux), jax.tree.leaves(second.aux), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)
    np.testing.assert_array_equal(np.asarray(second.x)[~np.asarray(real)], 0)


def test_losses_are_weighted():
    cases = [Case(CONFIGS[0].replace(balance_weight=weight, z_weight=weight)) for weight in (1.0, 0.25)]
    losses = [case(inputs(), context(inputs())).aux.losses for case in cases]
    for name in ("balance", "router_z"):
        np.testing.assert_allclose(losses[1][name], 0.25 * losses[0][name], rtol=1e-6)


def test_zero_logits_give_each_loss_its_published_value():
    """A router of zeros has P uniform, so balance = E sum f_i / E = 1, and z = (log E)^2."""
    case = Case(CONFIGS[0].replace(balance_weight=1.0, z_weight=1.0))
    case.params["router"] = jnp.zeros_like(case.params["router"])
    losses = case(inputs(), context(inputs())).aux.losses
    np.testing.assert_allclose(losses["balance"], 1.0, rtol=1e-6)
    np.testing.assert_allclose(losses["router_z"], np.log(5) ** 2, rtol=1e-6)


def test_more_choices_than_experts_are_refused():
    with pytest.raises(ValueError, match="top_k=4 must be at most num_experts=3"):
        moe.Config(num_experts=3, top_k=4, hidden_dim=5)


def test_the_balancing_bias_is_not_trained():
    names = tree.paths(trainable(Case(CONFIGS[1]).boxes))
    assert [name for name, trained in names.items() if not trained] == ["router_bias"]


def test_there_is_no_bias_without_a_rate():
    assert "router_bias" not in Case(CONFIGS[0]).params


# In a decoder

BIASED = moe.Config(num_experts=3, top_k=1, hidden_dim=4, renormalize=False, bias_rate=0.25, z_weight=0.0)


def _decoder(*, group=""):
    dense = block.Config(sublayers=(mlp.Config(hidden_dim=5),))
    sparse = block.Config(sublayers=(BIASED,), group=group)
    layers = stack.Config(prefix=(sparse,), pattern=(dense, sparse), repeats=2)
    return decoder.Config(vocab_size=11, embed_dim=12, layers=layers)


def _state(cfg):
    tokens = jnp.zeros((4, 7), jnp.int32)
    boxes = jax.eval_shape(cfg.make().init, jax.random.key(0), tokens)["params"]
    return random_like(unbox(boxes)), trainable(boxes)


LOADS = {
    "layers/0/moe/expert_load": jnp.asarray([0.6, 0.4, 0.0]),
    "layers/2/moe/expert_load": jnp.asarray([0.0, 0.5, 0.5]),
    "layers/4/moe/expert_load": jnp.asarray([1 / 4, 1 / 4, 1 / 2]),
}


def _updated(cfg, params, mask):
    """As the training step does it: the buffers alone, in canonical form, and back."""
    trained, buffers = tree.partition(params, mask)
    new = tree.stack(cfg.update(tree.unstack(buffers), LOADS), params)
    return tree.merge(trained, new)


def test_the_bias_of_each_layer_moves_against_its_load():
    cfg = _decoder()
    params, mask = _state(cfg)
    before, after = (tree.paths(tree.unstack(p)) for p in (params, _updated(cfg, params, mask)))
    moves = {path: np.asarray(after[path] - before[path]) for path in before if path.endswith("router_bias")}
    expected = {"0": [-0.25, -0.25, 0.25], "2": [0.25, -0.25, -0.25], "4": [0.25, 0.25, -0.25]}
    assert list(moves) == [f"layers/{i}/moe/router_bias" for i in expected]
    for i, move in expected.items():
        np.testing.assert_allclose(moves[f"layers/{i}/moe/router_bias"], move, atol=1e-6)


def test_an_update_of_the_buffers_touches_nothing_else():
    cfg = _decoder()
    params, mask = _state(cfg)
    before, after = tree.paths(params), tree.paths(_updated(cfg, params, mask))
    assert before.keys() == after.keys()
    for path in before:
        assert before[path].shape == after[path].shape
        assert np.all(before[path] == after[path]) != path.endswith("router_bias"), path


def test_layers_that_share_a_router_share_its_bias_and_average_their_loads():
    cfg = _decoder(group="common")
    params, mask = _state(cfg)
    bias = lambda params: params["layers"]["common"]["moe"]["router_bias"]
    move = bias(_updated(cfg, params, mask)) - bias(params)  # mean loads 0.283, 0.383, 0.333: the last is the mean
    np.testing.assert_allclose(move[:2], [0.25, -0.25], atol=1e-6)


def test_a_decoder_reports_the_load_of_each_layer_by_its_canonical_name():
    cfg = _decoder()
    params, _ = _state(cfg)
    tokens = jnp.asarray(np.random.default_rng(0).integers(11, size=(4, 7)))
    call = jit(lambda params: cfg.make().apply({"params": params}, tokens).aux)
    scanned, unrolled = call(params), call(tree.unstack(params))
    assert set(scanned.stats) == set(unrolled.stats) >= set(LOADS)
    for name, load in unrolled.stats.items():
        np.testing.assert_allclose(scanned.stats[name], load, atol=1e-6)


def _balance_gradient(cfg, params, tokens, parts=1):
    """By every trained weight, as the training step has it: with no token to predict, the balance loss is all."""
    rows = dict(tokens=tokens, targets=tokens, weights=jnp.zeros(tokens.shape), positions=positions_of(tokens))
    trained = tree.map_with_path(lambda path, _: not path.endswith("router_bias"), params)
    gradient = gradient_of(cfg.make(), trained, micro_batches=parts)
    found, log = jit(gradient)(params, rows, jax.random.key(0))
    np.testing.assert_allclose(log["loss"], log["losses"]["balance"], rtol=1e-6)
    return tree.paths(tree.unstack(found))


@pytest.fixture(scope="module")
def plain_gradient():
    """(cfg, params, tokens, gradient of the balance loss alone) without scan, remat, micro-batches or mesh."""
    cfg = _decoder()
    params, _ = _state(cfg)
    tokens = jnp.asarray(np.random.default_rng(0).integers(11, size=(12, 7)))
    return cfg, params, tokens, _balance_gradient(cfg, tree.unstack(params), tokens)


WAYS = {
    "scan": lambda cfg, *args: _balance_gradient(cfg, *args),
    "remat": lambda cfg, *args: _balance_gradient(cfg.replace(layers=cfg.layers.replace(remat="full")), *args),
    "micro_batches": lambda cfg, *args: _balance_gradient(cfg, *args, parts=2),
    "data": lambda cfg, *args: _on_mesh(cfg, *args, data=4),
    "data, fsdp, tensor": lambda cfg, *args: _on_mesh(cfg, *args, data=2, fsdp=2, tensor=2),
    "data, expert": lambda cfg, *args: _on_mesh(cfg, *args, data=2, expert=3),
}
MORE = ("data", "data, fsdp, tensor")
"""The slow ones."""


def _on_mesh(cfg, *args, **sizes):
    devices = jax.devices()[: math.prod(sizes.values())]
    with jax.set_mesh(meshes.make(meshes.Config(**sizes), devices)):
        return _balance_gradient(cfg.replace(layers=cfg.layers.replace(remat="full")), *args)


@pytest.mark.parametrize("way", [pytest.param(way, marks=[pytest.mark.slow] * (way in MORE)) for way in WAYS])
def test_the_balance_loss_reaches_every_router_by_the_same_gradient(plain_gradient, way):
    cfg, params, tokens, expected = plain_gradient
    actual = WAYS[way](cfg, params, tokens)
    routers = [path for path in expected if path.endswith("/router")]
    assert len(routers) == 3
    for path in routers:
        assert np.any(expected[path] != 0) and holds(actual[path], expected[path], 1e-6), path


def test_the_balance_loss_is_the_one_that_is_named():
    found = {}
    for name in ("f_dot_p", "cv_squared", "sum_of_squares", "variance"):
        case = Case(CONFIGS[0].replace(balance_weight=1.0, balance_loss=name))
        found[name] = float(case(inputs(), context(inputs())).aux.losses["balance"])
    assert found["sum_of_squares"] == pytest.approx(1 + found["cv_squared"], rel=1e-5)
    assert found["variance"] == pytest.approx(found["cv_squared"] / 25, rel=1e-5)
    assert found["f_dot_p"] != pytest.approx(found["sum_of_squares"], rel=1e-3)


# Over the whole batch

POOLED = CONFIGS[0].replace(balance_weight=1.0, z_weight=0.0, balance_over="batch")


def _balance(cfg, x):
    """The balance loss of a layer, and its gradient by the router."""
    params = Case(cfg).params

    def loss(router, x):
        rows = meshes.constrain(x, "batch", None, None)
        return cfg.make().apply({"params": params | {"router": router}}, rows, context(rows)).aux.losses["balance"]

    return jit(jax.value_and_grad(loss))(params["router"], x)


@pytest.fixture(scope="module")
def pooled():
    """Rows of which each crowds an expert of its own, and their loss over the batch with its gradient."""
    x = inputs(rows=4, tokens=5) + 3 * jnp.eye(4, 7)[:, None]
    return x, _balance(POOLED, x)


def test_over_the_batch_it_does_not_matter_in_which_row_a_token_is(pooled):
    x, (value, gradient) = pooled
    turned = _balance(POOLED, x.swapaxes(0, 1).reshape(x.shape))
    assert holds(turned[0], value, 1e-6) and holds(turned[1], gradient, 1e-6)


def test_over_rows_it_is_larger_since_each_row_has_experts_of_its_own(pooled):
    x, (value, _) = pooled
    assert _balance(POOLED.replace(balance_over="row"), x)[0] > value + 0.1


def test_over_the_batch_it_is_the_same_on_any_number_of_shards(pooled):
    x, (value, gradient) = pooled
    with jax.set_mesh(meshes.make(meshes.Config(data=4), jax.devices()[:4])):
        split = _balance(POOLED, x)
    assert np.any(gradient) and holds(split[0], value, 1e-6) and holds(split[1], gradient, 1e-6)


@pytest.mark.slow
def test_over_the_batch_with_micro_batches_it_is_the_mean_of_each_one_s_own():
    """Whose loads none of the others knows: so it is not the loss of the whole batch, which the docstring says."""
    layers = stack.Config(pattern=(block.Config(sublayers=(POOLED,)),))
    cfg = decoder.Config(vocab_size=11, embed_dim=12, layers=layers)
    params, _ = _state(cfg)
    tokens = jnp.asarray(np.random.default_rng(0).integers(11, size=(4, 1))).repeat(7, axis=1)  # each row its own
    trained = jax.tree.map(lambda _: True, params)
    rows = lambda tokens: dict(
        tokens=tokens, targets=tokens, weights=jnp.zeros(tokens.shape), positions=positions_of(tokens)
    )
    alone, halves = (jit(gradient_of(cfg.make(), trained, micro_batches=parts)) for parts in (1, 2))
    of = lambda gradient, tokens: gradient(params, rows(tokens), jax.random.key(0))[0]["layers"]["0"]["moe"]["router"]
    both = of(halves, tokens)
    assert holds(both, (of(alone, tokens[0::2]) + of(alone, tokens[1::2])) / 2, 1e-6)
    assert not holds(both, of(alone, tokens), 1e-3)
