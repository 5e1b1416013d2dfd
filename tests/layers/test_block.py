"""Each placement of norms is its formula; sublayers are named by their files."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arch import tree
from arch.ffns import mlp, moe
from arch.layers import block, norm
from arch.layers.contract import Context
from arch.layers.weight import unbox
from arch.mixers import attention, mamba
from tests.contracts.sublayers import context, holds, inputs, random_like

MIXER, FFN = attention.Config(num_heads=2, head_dim=4), mlp.Config(hidden_dim=5)
NORM = norm.Config(kind="layer", bias=True)


def _layer(placement="pre", sublayers=(MIXER, FFN), **fields):
    cfg = block.Config(sublayers=sublayers, norm=NORM, placement=placement, **fields)
    boxes = jax.eval_shape(cfg.make().init, jax.random.key(0), inputs(), context(inputs()))["params"]
    return cfg, random_like(unbox(boxes))


def _by_hand(placement, params):
    """The formulas of the file's head, for two sublayers f and g."""
    x, given = inputs(), context(inputs())
    f = lambda x: MIXER.make().apply({"params": params["attention"]}, x, given).x
    g = lambda x: FFN.make().apply({"params": params["mlp"]}, x, given).x
    n = lambda name, x: NORM.make().apply({"params": params[name]}, x)
    if placement == "pre":
        x = x + f(n("attention_norm", x))
        return x + g(n("mlp_norm", x))
    if placement == "post":
        x = n("attention_norm", x + f(x))
        return n("mlp_norm", x + g(x))
    if placement == "sandwich":
        x = x + n("attention_post_norm", f(n("attention_norm", x)))
        return x + n("mlp_post_norm", g(n("mlp_norm", x)))
    if placement == "parallel":
        return x + f(n("norm", x)) + g(n("norm", x))
    if placement == "nested":
        return x + g(n("mlp_norm", x + f(n("attention_norm", x))))
    return x + f(n("attention_norm", x)) + g(n("mlp_norm", x))


@pytest.mark.parametrize("placement", ["pre", "post", "sandwich", "parallel", "parallel_norms", "nested"])
def test_a_placement_is_its_formula(placement):
    cfg, params = _layer(placement)
    out = jax.jit(cfg.make().apply)({"params": params}, inputs(), context(inputs())).x
    assert holds(out, jax.jit(lambda params: _by_hand(placement, params))(params))


def test_a_repeated_sublayer_is_numbered_from_the_second_on():
    cfg = block.Config(sublayers=(MIXER, FFN, MIXER, mamba.Config(inner_dim=4), MIXER))
    assert cfg.labels == ("attention", "mlp", "attention_1", "mamba", "attention_2")


def test_caches_stand_under_the_labels_of_those_that_remember():
    cfg = block.Config(sublayers=(MIXER, FFN, mamba.Config(inner_dim=4)))
    assert list(cfg.init_cache(2, 3, 7, jnp.float32)) == ["attention", "mamba"]


def test_a_block_needs_a_sublayer():
    with pytest.raises(ValueError, match=r"sublayers=\(\) must hold at least one"):
        block.Config(sublayers=())


@pytest.mark.parametrize("group", ["scan_1", "two words", "a/b"])
def test_a_group_s_name_must_not_look_like_something_else(group):
    with pytest.raises(ValueError, match=f"group={group!r} must be an identifier"):
        block.Config(sublayers=(FFN,), group=group)


def _dropped(seed, **fields):
    cfg, params = _layer(dropout=0.5, sublayers=(FFN, FFN))
    given = Context(context(inputs()).positions, key=jax.random.key(seed), deterministic=False)
    return cfg.make().apply({"params": params}, inputs(), given, **fields).x


def test_dropout_is_the_same_for_the_same_key():
    np.testing.assert_array_equal(_dropped(3), _dropped(3))


def test_dropout_differs_for_another_key():
    assert np.any(_dropped(3) != _dropped(4))


def test_dropout_is_off_when_deterministic():
    cfg, params = _layer(dropout=0.5)
    plain = cfg.replace(dropout=0.0)
    apply = lambda cfg: cfg.make().apply({"params": params}, inputs(), context(inputs())).x
    np.testing.assert_array_equal(apply(cfg), apply(plain))


def test_statistics_stand_under_the_sublayer_s_label():
    cfg, params = _layer(sublayers=(MIXER, moe.Config(num_experts=3, top_k=2, hidden_dim=5)))
    aux = cfg.make().apply({"params": params}, inputs(), context(inputs())).aux
    assert "moe/expert_load" in aux.stats and set(aux.losses) == {"balance", "router_z"}


def test_paths_of_a_block():
    assert sorted(tree.paths(_layer("sandwich", sublayers=(FFN,))[1])) == [
        "mlp/down",
        "mlp/up",
        "mlp_norm/bias",
        "mlp_norm/scale",
        "mlp_post_norm/bias",
        "mlp_post_norm/scale",
    ]
