"""A stack scans its period, shares groups, rematerialises, and decodes layer by layer."""

import dataclasses
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arch import config, tree
from arch.ffns import mlp, moe
from arch.layers import block, stack
from arch.layers.contract import Context, Output, SublayerConfig
from arch.layers.weight import unbox
from arch.mixers import attention, mamba
from arch.models import decoder
from tests.contracts.sublayers import EMBED, context, holds, inputs, jit, random_like

FFN, ATTENTION = mlp.Config(hidden_dim=5), attention.Config(num_heads=2, head_dim=4)


def _block(*sublayers, **fields):
    return block.Config(sublayers=sublayers, **fields)


def _params(cfg: stack.Config, given=None):
    given = context(inputs()) if given is None else given
    return random_like(unbox(jax.eval_shape(cfg.make().init, jax.random.key(0), inputs(), given)["params"]))


def _apply(cfg, params, given=None, cache=None) -> Output:
    return cfg.make().apply({"params": params}, inputs(), context(inputs()) if given is None else given, cache)


def _objective(cfg, params):
    out = _apply(cfg, params)
    return jnp.mean(jnp.sin(out.x)) + sum(out.aux.losses.values(), start=0.0)


SMALL = stack.Config(
    prefix=(_block(ATTENTION),),
    pattern=(_block(FFN), _block(mamba.Config(inner_dim=3), FFN)),
    repeats=2,
    suffix=(_block(FFN),),
)


def test_paths_of_the_scanned_form():
    assert sorted({path.rsplit("/", 1)[0] for path in tree.paths(_params(SMALL))}) == [
        "0/attention",
        "0/attention_norm",
        "5/mlp",
        "5/mlp_norm",
        "scan_1_2/0/mlp",
        "scan_1_2/0/mlp_norm",
        "scan_1_2/1/mamba",
        "scan_1_2/1/mamba_norm",
        "scan_1_2/1/mlp",
        "scan_1_2/1/mlp_norm",
    ]


def test_canonical_paths():
    assert [path for path in tree.paths(tree.unstack(_params(SMALL))) if path.endswith(("/query", "/in", "/up"))] == [
        "0/attention/query",
        "1/mlp/up",
        "2/mamba/in",
        "2/mlp/up",
        "3/mlp/up",
        "4/mamba/in",
        "4/mlp/up",
        "5/mlp/up",
    ]


def test_a_stack_of_one_period_is_not_scanned():
    assert set(_params(stack.Config(pattern=(_block(FFN), _block(FFN))))) == {"0", "1"}


def test_the_blocks_are_prefix_repeated_pattern_and_suffix():
    a, b, c = _block(FFN), _block(ATTENTION), _block(FFN, ATTENTION)
    assert stack.Config(prefix=(a,), pattern=(b, c), repeats=2, suffix=(a, b)).blocks == (a, b, c, b, c, a, b)


def test_initial_layers_of_a_scan_differ():
    cfg = stack.Config(pattern=(_block(FFN),), repeats=3)
    params = unbox(jit(cfg.make().init)(jax.random.key(0), inputs(), context(inputs()))["params"])
    up = params["scan_0_1"]["0"]["mlp"]["up"]
    assert np.any(up[0] != up[1]) and np.any(up[1] != up[2])


def test_a_stack_needs_a_block():
    with pytest.raises(ValueError, match=r"pattern=\(\) must hold at least one block"):
        stack.Config(pattern=())


def test_a_cache_with_scanned_parameters_is_refused():
    cfg = stack.Config(pattern=(_block(ATTENTION),), repeats=2)
    with pytest.raises(ValueError, match=r"call arch\.tree\.unstack"):
        _apply(cfg, _params(cfg), cache=cfg.init_cache(3, 21, EMBED, jnp.float32))


# Groups


def _grouped(*layers, **fields):
    return stack.Config(pattern=layers, **fields)


SHARED = _grouped(_block(FFN, group="common"), _block(ATTENTION), repeats=2, prefix=(_block(FFN, group="common"),))


def test_a_group_has_its_parameters_once():
    params = _params(SHARED)
    assert set(params) == {"common", "scan_1_2"} and set(params["scan_1_2"]) == {"1"}
    assert tree.count(params["common"]) == 2 * EMBED * 5 + EMBED


def test_a_group_computes_what_equal_separate_layers_compute():
    apart = stack.Config(prefix=(_block(FFN),), pattern=(_block(FFN), _block(ATTENTION)), repeats=2)
    params = _params(SHARED)
    shared = tree.unstack(params)
    separate = {str(i): shared["common"] for i in (0, 1, 3)} | {i: shared[i] for i in ("2", "4")}
    assert holds(jit(partial(_apply, SHARED))(params).x, jit(partial(_apply, apart))(separate).x)


def test_a_group_s_gradient_is_the_sum_over_its_layers():
    apart = stack.Config(prefix=(_block(FFN),), pattern=(_block(FFN), _block(ATTENTION)), repeats=2)
    params = _params(SHARED)
    shared = tree.unstack(params)
    separate = {str(i): shared["common"] for i in (0, 1, 3)} | {i: shared[i] for i in ("2", "4")}
    together = jit(jax.grad(partial(_objective, SHARED)))(params)["common"]
    each = jit(jax.grad(partial(_objective, apart)))(separate)
    total = jax.tree.map(lambda *leaves: sum(leaves), each["0"], each["1"], each["3"])
    for path, gradient in tree.paths(total).items():
        assert holds(tree.paths(together)[path], gradient, 1e-6), path


def test_a_group_of_different_blocks_is_refused():
    with pytest.raises(ValueError, match="group='one' of layer 1 must hold equal blocks"):
        _grouped(_block(FFN, group="one"), _block(ATTENTION, group="one"))


def test_layers_of_a_group_have_caches_of_their_own():
    cfg = _grouped(_block(ATTENTION, group="one"), repeats=2)
    params, cache = _params(cfg), cfg.init_cache(3, 21, EMBED, jnp.float32)
    out = jit(partial(_apply, cfg))(tree.unstack(params), cache=cache)
    assert holds(out.x, jit(partial(_apply, cfg))(params).x)
    assert np.any(out.cache[0]["attention"]["key"] != out.cache[1]["attention"]["key"])


# What layers share


@config.frozen
class Note(SublayerConfig):
    """Adds the sum of what stands under `reads` and shares its input under `writes`."""

    writes: tuple[str, ...] = ()
    reads: tuple[str, ...] = ()
    label = "note"

    def make(self, name=None):
        return NoteModule(self, name=name)


class NoteModule(nn.Module):
    cfg: Note

    @nn.compact
    def __call__(self, x, context: Context, cache: Any = None) -> Output:
        result = sum((context.shared[name] for name in self.cfg.reads), start=jnp.zeros_like(x))
        return Output(result, cache, shared={name: x for name in self.cfg.writes})


def test_a_repeated_period_that_writes_a_new_name_is_refused():
    cfg = stack.Config(pattern=(_block(Note(writes=("new",)), FFN),), repeats=2)
    with pytest.raises(ValueError, match=r"shared names \['new'\] must be \[\] before and after a repeated period"):
        _params(cfg)


def test_a_repeated_period_may_change_a_value_that_the_prefix_wrote():
    write, both = _block(Note(writes=("a",))), _block(Note(writes=("a",), reads=("a",)), FFN)
    cfg = stack.Config(prefix=(write,), pattern=(both,), repeats=3)
    params = _params(cfg)
    assert holds(jit(partial(_apply, cfg))(params).x, jit(partial(_apply, cfg))(tree.unstack(params)).x)


@pytest.mark.parametrize("repeats", [1, 2])
def test_a_group_may_read_what_earlier_layers_shared(repeats):
    write, read = _block(Note(writes=("a",))), _block(Note(reads=("a",)), FFN, group="reader")
    cfg = stack.Config(prefix=(write,), pattern=(read,), repeats=repeats)
    assert np.isfinite(_apply(cfg, _params(cfg)).x).all()


# Rematerialisation

DEEP = stack.Config(pattern=(_block(ATTENTION, moe.Config(num_experts=3, top_k=2, hidden_dim=5)),), repeats=2)


def _value_and_gradients(cfg, params):
    return tree.paths(dict(zip(("value", "gradients"), jit(jax.value_and_grad(partial(_objective, cfg)))(params))))


@pytest.mark.parametrize("remat", [pytest.param("dots", marks=pytest.mark.slow), "full", "offload"])
def test_remat_keeps_values_and_gradients(remat):
    params = _params(DEEP)
    if remat == "offload" and "pinned_host" not in {memory.kind for memory in jax.devices()[0].addressable_memories()}:
        pytest.skip("this device has no pinned_host memory to offload to")
    expected, actual = _value_and_gradients(DEEP, params), _value_and_gradients(DEEP.replace(remat=remat), params)
    for path, value in expected.items():
        assert holds(actual[path], value, 1e-6), path


def test_the_balance_loss_reaches_the_router_through_scan_and_remat():
    cfg = DEEP.replace(remat="full")
    gradient = jit(jax.grad(lambda params: _apply(cfg, params).aux.losses["balance"]))(_params(cfg))
    router = gradient["scan_0_1"]["0"]["moe"]["router"]
    assert all(np.any(layer != 0) for layer in router)


def _temporaries(remat, layers=8):
    cfg = stack.Config(pattern=(_block(mlp.Config(hidden_dim=512)),), repeats=layers, remat=remat)
    lowered = jax.jit(jax.grad(partial(_objective, cfg))).lower(_params(cfg))
    return lowered.compile().memory_analysis().temp_size_in_bytes


@pytest.mark.usefixtures("optimized")
def test_full_remat_needs_less_memory_than_none():
    assert _temporaries("full") < 0.5 * _temporaries("none")


# Dropout


def test_layers_of_a_scan_drop_differently():
    """A stack whose layers have equal weights: with equal masks its two layers would add twice the same."""
    cfg = stack.Config(pattern=(_block(Note(reads=("one",)), dropout=0.5),), repeats=2)
    x, params = inputs(), _params(cfg, dataclasses.replace(context(inputs()), shared={"one": inputs()}))
    given = Context(context(x).positions, key=jax.random.key(0), deterministic=False, shared={"one": jnp.ones_like(x)})
    added = np.asarray(_apply(cfg, params, given).x - x)
    assert set(np.unique(np.round(added, 3))) == {0.0, 2.0, 4.0}  # 1 / (1 - 0.5) from neither, one or both layers


# Memory of decoding


@pytest.mark.usefixtures("optimized")
def test_a_decode_step_s_temporaries_stay_under_one_layer_s_cache():
    layer = _block(attention.Config(num_heads=2, head_dim=8, num_kv_heads=2), mlp.Config(hidden_dim=8))
    cfg = decoder.Config(vocab_size=11, embed_dim=16, layers=stack.Config(pattern=(layer,), repeats=4))
    rows, length = 2, 4096
    tokens = jnp.zeros((rows, 1), jnp.int32)
    shapes = unbox(jax.eval_shape(cfg.make().init, jax.random.key(0), tokens)["params"])
    params = jax.eval_shape(tree.unstack, shapes)
    cache = jax.eval_shape(lambda: cfg.init_cache(rows, length))

    def step(params, tokens, start, cache):
        out = cfg.make().apply({"params": params}, tokens, Context(start[:, None]), cache)
        return out.x, out.cache

    start = jax.ShapeDtypeStruct((rows,), jnp.int32)
    compiled = jax.jit(step, donate_argnums=3).lower(params, tokens, start, cache).compile()
    one_layer = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(cache[0]))
    memory = compiled.memory_analysis()
    assert memory.temp_size_in_bytes < one_layer
    assert memory.alias_size_in_bytes >= 4 * one_layer * 0.99, "the donated caches are not reused"


def test_more_layers_than_can_be_listed_are_refused():
    with pytest.raises(config.ConfigError, match="repeats=10000000000 must be at least 1 and at most 10000"):
        stack.Config(pattern=(block.Config(sublayers=(mlp.EXAMPLES[0],)),), repeats=10**10)
