"""Places of a stack share a transformer's layer and have adapters of their own, in place of weights of their own."""

from functools import partial

import jax
import jax.numpy as jnp
import pytest

from arch import tree
from arch.layers import block, stack
from arch.layers.contract import Context
from arch.layers.weight import unbox
from arch.mixers import mamba, shared_transformer
from tests.contracts.sublayers import Case, context, holds, inputs, jit, random_like

[CFG] = shared_transformer.EXAMPLES
PLACE = block.Config(sublayers=(CFG.replace(group="common"), mamba.Config(inner_dim=3)), placement="nested")
STACK = stack.Config(pattern=(PLACE,), repeats=2, suffix=(PLACE,))


def parameters(cfg):
    return random_like(unbox(jax.eval_shape(cfg.make().init, jax.random.key(0), inputs(), context(inputs()))["params"]))


def applied(cfg, params):
    given = Context(positions=context(inputs()).positions)
    return cfg.make().apply({"params": params}, inputs(), given).x


def objective(cfg, params):
    return jnp.mean(jnp.sin(applied(cfg, params)))


def test_adapters_are_low_rank_changes_of_the_weights():
    case, low = Case(CFG), Case(CFG.replace(attention_rank=0, ffn_rank=0))
    params, layer = case.params, dict(case.params["layer"])
    for name in ("query", "key", "value"):
        layer[name] += jnp.einsum("er,rnh->enh", params[f"{name}_down"], params[f"{name}_up"])
    for name in ("gate", "up"):
        layer[name] += params["ffn_down"] @ params[f"ffn_{name}"]
    x = inputs()
    assert holds(jit(low.apply)({"layer": layer, "out": params["out"]}, x, context(x)).x, case.full)


@pytest.mark.slow
def test_adapters_change_nothing_at_first():
    params = unbox(CFG.make().init(jax.random.key(0), inputs(), context(inputs()))["params"])
    assert all(not leaf.any() for path, leaf in tree.paths(params).items() if path.endswith(("_up", "ffn_gate")))
    assert any(leaf.any() for path, leaf in tree.paths(params).items() if path.endswith("_down"))


def test_places_of_a_group_share_the_layer_and_nothing_else():
    params = parameters(STACK)
    assert params.keys() == {"common", "scan_0_1", "2"}
    assert params["common"].keys() == {"norm", "query", "key", "value", "out", "ffn_norm", "gate", "up", "down"}
    own = {
        "out",
        "ffn_down",
        "ffn_gate",
        "ffn_up",
        *(f"{n}_{w}" for n in ("query", "key", "value") for w in ("down", "up")),
    }
    assert params["2"]["shared_transformer"].keys() == own
    assert params["2"].keys() == {"shared_transformer", "mamba", "mamba_norm"}


@pytest.mark.slow
def test_a_group_computes_and_learns_what_separate_layers_do():
    params = parameters(STACK)
    each = tree.unstack(params)
    alone = block.Config(sublayers=(CFG, *PLACE.sublayers[1:]), placement="nested")
    apart = stack.Config(pattern=(alone,) * 3)
    layers = {
        i: {**each[i], "shared_transformer": {**each[i]["shared_transformer"], "layer": each["common"]}} for i in "012"
    }
    (value, found), (other, wanted) = (
        jit(jax.value_and_grad(partial(objective, cfg)))(given) for cfg, given in ((STACK, params), (apart, layers))
    )
    assert holds(value, other)
    total = jax.tree.map(lambda *leaves: sum(leaves), *(wanted[i]["shared_transformer"]["layer"] for i in "012"))
    for path, gradient in tree.paths(total).items():
        assert holds(tree.paths(found["common"])[path], gradient, 1e-6), path


@pytest.mark.slow
def test_the_layer_is_shared_through_rematerialisation_too():
    params = parameters(STACK)
    expected, actual = (jit(jax.grad(partial(objective, cfg)))(params) for cfg in (STACK, STACK.replace(remat="full")))
    for path, gradient in tree.paths(expected).items():
        assert holds(tree.paths(actual)[path], gradient, 1e-6), path


@pytest.mark.slow
def test_every_place_of_a_stack_reads_what_its_first_layer_read():
    params = tree.unstack(parameters(STACK))

    def both(params):
        x, given = inputs(), context(inputs(), embedding=inputs(), parameters={"common": params["common"]})
        for i in "012":
            x = PLACE.make().apply({"params": params[i]}, x, given).x
        return x, applied(STACK, params)

    assert holds(*jit(both)(params))


@pytest.mark.parametrize(
    ("given", "group", "message"),
    [
        (dict(embedding=None), "", "context.embedding=None must be the embedded tokens: a stack gives them"),
        (dict(), "common", "group='common' must be in context.parameters: a stack gives them"),
    ],
)
def test_what_only_a_stack_gives_is_asked_for_by_name(given, group, message):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(CFG.replace(group=group).make().init, jax.random.key(0), inputs(), context(inputs(), **given))


def test_a_group_of_different_layers_is_refused():
    other = CFG.replace(group="common", layer=CFG.layer.replace(hidden_dim=3))
    with pytest.raises(ValueError, match="group='common' of layer 1 must hold equal blocks"):
        stack.Config(pattern=(PLACE, block.Config(sublayers=(other,))))


def test_a_group_s_name_must_not_look_like_something_else():
    with pytest.raises(ValueError, match="group='scan_0_1' must be an identifier"):
        CFG.replace(group="scan_0_1")
