"""Each router in the layer, in training: its routing is what is computed, by each dispatch, and its losses reach it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arch import config
from arch.ffns import moe
from arch.layers import block, stack
from arch.layers.flops import Row, UnknownFlops
from arch.layers.weight import unbox
from arch.models import decoder
from arch.ops.routing import assignment
from arch.ops.routing.hashed import random_table
from arch.routers import (
    base,
    expert_choice,
    forced,
    gshard,
    hashed,
    noisy_top_k,
    replay,
    sigmoid,
    sinkhorn,
    switch,
    threshold,
    top_k,
)
from tests.contracts.sublayers import ROOT, Case, context, holds, inputs, jit, random_like

ROWS, TOKENS = 2, 11
SIZES = dict(num_experts=5, hidden_dim=3)
ONE, UNDIVIDED = dict(top_k=1, renormalize=False), dict(top_k=2, renormalize=False)
CONFIGS = {
    "top_k": moe.Config(
        top_k=2, router=top_k.Config(order="select_then_softmax", jitter=0.1, drop_experts=0.2), **SIZES
    ),
    "sigmoid": moe.Config(top_k=2, bias_rate=0.1, router=sigmoid.Config(scale=2.5), **SIZES),
    "noisy_top_k": moe.Config(top_k=2, balance_weight=0.0, z_weight=0.0, router=noisy_top_k.Config(), **SIZES),
    "threshold": moe.Config(router=threshold.Config(threshold=0.3), **UNDIVIDED, **SIZES),
    "switch": moe.Config(router=switch.Config(capacity_factor=1.0, stages=2), **ONE, **SIZES),
    "gshard": moe.Config(top_k=2, router=gshard.Config(), **SIZES),
    "base": moe.Config(balance_weight=0.0, router=base.Config(), **ONE, **SIZES),
    "sinkhorn": moe.Config(router=sinkhorn.Config(), **ONE, **SIZES),
    "hashed": moe.Config(top_k=2, balance_weight=0.0, z_weight=0.0, router=hashed.Config(table_size=7), **SIZES),
    "replay": moe.Config(top_k=2, router=replay.Config(), **SIZES),
    "forced": moe.Config(top_k=2, router=forced.Config(), **SIZES),
    "expert_choice": moe.Config(balance_weight=0.0, router=expert_choice.Config(), **UNDIVIDED, **SIZES),
}


def training(x):
    """A context with a key, tokens, and padding behind the second row."""
    valid = jnp.arange(TOKENS)[None] < jnp.asarray([TOKENS, 6])[:, None]
    tokens = jnp.asarray(np.random.default_rng(0).integers(20, size=(ROWS, TOKENS)))
    return context(x, valid=valid, tokens=tokens, key=jax.random.key(3), deterministic=False)


def test_every_router_is_here_and_is_chosen_by_its_file_s_name():
    names = sorted(file.stem for file in (ROOT / "routers").glob("[a-z]*.py"))
    assert names == sorted([*CONFIGS, "soft"])  # which has tests of its own
    for name, cfg in CONFIGS.items():
        tree = config.to_dict(cfg)
        assert tree["router"]["name"] == name and config.from_dict(moe.Config, tree) == cfg


class Trained:
    """One router's layer in training: its routing, its output by two dispatches, the gradient of each loss.

    Attributes:
      gradient: of the squared 'output' and of each loss, by every weight: {'balance': {'router': ...}}.
    """

    def __init__(self, cfg):
        self.cfg, self.x = cfg, inputs(ROWS, TOKENS)
        self.given = training(self.x)
        boxes = jax.eval_shape(cfg.make().init, jax.random.key(0), self.x, self.given)
        self.params = random_like(unbox(boxes["params"]))
        self.demand = dataclasses.replace(cfg.demand, bias=self.params.get("router_bias"))
        dense = cfg.replace(dispatch="dense").make()

        def losses(params):
            out = dense.apply({"params": params}, self.x, self.given)
            return {"output": jnp.sum(out.x**2), **out.aux.losses}, out

        def everything(params):
            own = lambda name, *_, **__: params[name]
            key = self.given.key
            logits = cfg.router.logits(own, self.x, key, self.demand)
            routed = cfg.router.route(own, logits, self.x, self.given, key, self.demand)
            gradient, by_dense = jax.jacrev(losses, has_aux=True)(params)
            return routed, cfg.make().apply({"params": params}, self.x, self.given), by_dense, gradient

        self.routed, self.out, self.dense, self.gradient = jit(everything)(self.params)


def reaches(trained, loss, name):
    """Whether the gradient of a loss by a weight is more than rounding: a constant loss has one, too."""
    value = jnp.sum(trained.dense.x**2) if loss == "output" else trained.dense.aux.losses[loss]
    return bool(jnp.max(jnp.abs(trained.gradient[loss][name])) > 1e-4 * value)


@pytest.fixture(scope="module", params=CONFIGS)
def trained(request) -> Trained:
    return Trained(CONFIGS[request.param])


def test_the_layer_computes_the_pairs_of_its_router(trained):
    """Pair by pair, in float64."""
    pairs, x = assignment.pairs(trained.routed), np.asarray(trained.x, float)
    gate, up, down = (np.asarray(trained.params[name], float) for name in ("gate", "up", "down"))
    expected = np.zeros(x.shape)
    for row, m in np.ndindex(*pairs.tokens.shape):
        if pairs.kept[row, m]:
            t, e = pairs.tokens[row, m], pairs.experts[row, m]
            hidden = x[row, t] @ gate[e]
            hidden = hidden / (1 + np.exp(-hidden)) * (x[row, t] @ up[e])
            expected[row, t] += float(pairs.weights[row, m]) * (hidden @ down[e])
    assert np.any(expected) and holds(trained.out.x, expected) and holds(trained.dense.x, expected)
    assert not np.any(np.asarray(trained.out.x)[~np.asarray(trained.given.valid)])


def test_the_gate_s_gradient_is_nonzero(trained):
    """The output alone, without any loss of the router's, teaches each of its weights."""
    for name in ("router", "router_noise")[: trained.cfg.router.matrices]:
        assert reaches(trained, "output", name), name


def test_each_of_its_losses_reaches_the_router(trained):
    cfg = trained.cfg
    factors = {"balance": cfg.balance_weight, "router_z": cfg.z_weight, **cfg.router.loss_weights}
    assert {loss for loss in factors if cfg.router.matrices and reaches(trained, loss, "router")} == {
        loss for loss, factor in factors.items() if factor
    }


def test_its_losses_reach_its_own_weights_alone(trained):
    matrices = ("router", "router_noise")[: trained.cfg.router.matrices]
    for loss in trained.out.aux.losses:
        for name, gradient in trained.gradient[loss].items():
            assert np.isfinite(gradient).all(), (loss, name)
            assert name in matrices or not np.any(gradient), (loss, name)


def test_its_own_losses_stand_beside_the_common_ones(trained):
    names = {"balance", "router_z", *trained.cfg.router.loss_weights}
    assert set(trained.out.aux.losses) == names
    for name, weight in trained.cfg.router.loss_weights.items():
        np.testing.assert_allclose(trained.out.aux.losses[name], weight * trained.routed.losses[name], rtol=1e-5)


# What the balance loss counts


@pytest.mark.parametrize("name", ["switch", "gshard"])
def test_dropping_does_not_hide_a_crowd_from_the_balance_loss(name):
    """All tokens want expert 1 first; few have room, and the loss counts them all."""
    cfg = CONFIGS[name]
    logits = jnp.zeros((1, TOKENS, 5)).at[..., 1].set(3.0).at[..., 2].set(1.0)
    x = inputs(1, TOKENS)
    real = jnp.ones((1, TOKENS), bool)
    routed = cfg.router.route(None, logits, x, context(x), None, cfg.demand)
    np.testing.assert_array_equal(cfg.router.load(routed, real), [[0, TOKENS, 0, 0, 0]])
    assert 0 < np.sum(routed.kept & (routed.experts == 1)) < TOKENS


# Options


def _apply(cfg, x, given, params):
    return jit(cfg.make().apply)({"params": params}, x, given).x


def test_dropout_inside_the_experts_keeps_the_mean_and_is_off_in_evaluation():
    x = inputs(1, 2)
    case = Case(moe.Config(num_experts=3, top_k=2, hidden_dim=4, expert_dropout=0.5))
    given = lambda key: context(x, key=key, deterministic=False)

    @jit
    def many(keys):
        by = {way: case.cfg.replace(dispatch=way).make() for way in ("grouped", "gathered")}
        call = lambda way: jax.vmap(lambda key: by[way].apply({"params": case.params}, x, given(key)).x)(keys)
        return call("grouped"), call("gathered")

    noisy, by_index = many(jax.random.split(jax.random.key(0), 400))
    assert holds(by_index, noisy)
    still = case(x, context(x)).x
    error = np.std(noisy, axis=0) / 20
    assert np.all(error > 0) and np.all(np.abs(np.mean(noisy, axis=0) - still) < 4 * error)


def test_a_shared_expert_is_a_gated_perceptron_beside_the_others():
    with_shared = Case(CONFIGS["sigmoid"].replace(shared_dim=4))
    x = inputs()
    params = dict(with_shared.params)
    shared = params.pop("shared")
    alone = _apply(CONFIGS["sigmoid"], x, context(x), params)
    hidden = jax.nn.silu(x @ shared["gate"]) * (x @ shared["up"])
    assert holds(with_shared.full, alone + hidden @ shared["down"])


def test_a_decoder_tells_its_hash_router_the_tokens():
    sparse = block.Config(sublayers=(CONFIGS["hashed"],))
    cfg = decoder.Config(vocab_size=7, embed_dim=6, layers=stack.Config(pattern=(sparse,)))
    first, second = (jnp.asarray([[1, 2, 3]]), jnp.asarray([[1, 2, 4]]))
    params = unbox(jit(cfg.make().init)(jax.random.key(0), first))
    call = jit(lambda tokens: cfg.make().apply(params, tokens).aux.stats["layers/0/moe/expert_load"])
    table = random_table(7, num_experts=5, k=2)
    for tokens in (first, second):
        expected = np.bincount(table[np.asarray(tokens[0])].ravel(), minlength=5)
        np.testing.assert_array_equal(call(tokens), expected)


def test_without_tokens_a_hash_router_says_so():
    with pytest.raises(ValueError, match="router='hashed' of='token' needs Context.tokens"):
        Case(CONFIGS["hashed"])(inputs(), context(inputs()))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(router=switch.Config()), "top_k=2 and renormalize=True must be 1 and False with router='switch'"),
        (dict(router=hashed.Config(table_size=3)), "balance_weight=0.01 and z_weight=0.001 must be 0 with router='ha"),
        (dict(router=gshard.Config(), bias_rate=0.1), "bias_rate=0.1 must be 0 with router='gshard'"),
        (dict(router=gshard.Config(), renormalize=False), "renormalize=False must be True with router='gshard'"),
        (dict(router=gshard.Config(), top_k=1), "top_k=1 must be 2 with router='gshard'"),
        (dict(router=noisy_top_k.Config(), top_k=6), "top_k=6 must be above 1, .* and below num_experts=6"),
        (dict(router=noisy_top_k.Config(), top_k=1), "top_k=1 must be above 1, where the gate has a gradient"),
        (dict(top_k=1), "renormalize=True must be False with top_k=1 and router='top_k'"),
        (dict(router=sigmoid.Config(), top_k=1), "renormalize=True must be False with top_k=1 and router='sigmoid'"),
        (dict(router=forced.Config(), top_k=1), "renormalize=True must be False with top_k=1 and router='forced'"),
        (
            dict(router=top_k.Config(order="select_then_softmax"), top_k=1, renormalize=False),
            "order='select_then_softmax' must be 'softmax_then_select' with top_k=1",
        ),
        (dict(router=sigmoid.Config(num_groups=4)), "num_groups=4 must divide num_experts=6"),
        (dict(router=top_k.Config(num_groups=6), top_k=2), "top_k=2 must be at most 1, the experts in top_groups=1"),
        (dict(router=threshold.Config()), "renormalize=True must be False with router='threshold'"),
        (
            dict(router=expert_choice.Config(), renormalize=False),
            "balance_weight=0.01 must be 0 with balance_loss='f_dot_p' and router='expert_choice', always balanced",
        ),
        (
            dict(router=base.Config(), top_k=1, renormalize=False),
            "balance_weight=0.01 must be 0 with balance_loss='f_dot_p' and router='base', always balanced",
        ),
        (
            dict(router=forced.Config(kind="balanced")),
            "balance_weight=0.01 must be 0 with balance_loss='f_dot_p' and router='forced', always balanced",
        ),
        (
            dict(router=forced.Config(kind="skewed", share=0.0)),
            "balance_weight=0.01 must be 0 with balance_loss='f_dot_p' and router='forced', always balanced",
        ),
        (dict(dispatch="dense", expert_dropout=0.1), "expert_dropout=0.1 must be 0 with dispatch='dense'"),
        (dict(dispatch="gathered", matmul="mosaic"), "matmul='mosaic' must be '' with dispatch='gathered'"),
    ],
)
def test_a_layer_that_its_router_cannot_serve_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        moe.Config(**dict(num_experts=6, top_k=2, hidden_dim=3) | changes)


@pytest.mark.parametrize("router", [sinkhorn, base, expert_choice])
def test_experts_are_not_dropped_where_balance_fills_them(router):
    name = router.__name__.rsplit(".", 1)[-1]
    with pytest.raises(ValueError, match=f"drop_experts=0.1 must be 0 with router='{name}'"):
        router.Config(drop_experts=0.1)


@pytest.mark.parametrize("name", ["top_k", "noisy_top_k"])
def test_the_scores_are_products_of_full_float32(name):
    """TPUs and GPUs round the factors of a float32 product unless it says otherwise."""
    cfg, x = CONFIGS[name], inputs(1, 3)
    own = lambda *_, **axes: jnp.zeros(tuple(axes.values()))

    def routed(x):
        logits = cfg.router.logits(own, x, None, cfg.demand)
        return cfg.router.route(own, logits, x, context(x), None, cfg.demand)

    products = [e for e in jax.make_jaxpr(routed)(x).eqns if e.primitive.name == "dot_general"]
    scores = [e for e in products if e.invars[1].aval.shape == (x.shape[-1], cfg.num_experts)]
    assert len(scores) == cfg.router.matrices
    assert all(set(e.params["precision"]) == {jax.lax.Precision.HIGHEST} for e in scores)


def test_flops_are_of_the_experts_that_a_token_has():
    row = Row(length=20, embed_dim=7)

    def flops(router, **fields):
        return moe.Config(num_experts=6, top_k=2, hidden_dim=5, renormalize=False, router=router, **fields).flops(row)

    off = dict(balance_weight=0.0)
    even, double, all_of_them = (
        flops(expert_choice.Config(capacity_factor=factor), **off).required for factor in (1.0, 2.0, 9.0)
    )
    assert flops(top_k.Config()).required == even
    an_expert = 2 * (3 * 7 * 5 + 7)
    assert double - even == 20 * 2 * an_expert and all_of_them - double == 20 * 2 * an_expert
    with pytest.raises(UnknownFlops, match="threshold"):
        flops(threshold.Config())
