"""Rows whose tokens lie on four devices: each sublayer gives what it gives on one, or says that it cannot."""

import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arch import tree
from arch.ffns import moe
from arch.layers import block
from arch.layers.weight import axes
from arch.mixers import attention, mamba2
from arch.patterns import strided
from arch.positions import alibi, relative
from arch.sharding import mesh as meshes
from tests.contracts.sublayers import FFNS, MIXERS, Case, context, holds, inputs, jit

ROWS, TOKENS, EMBED = 4, 24, 12
MESHES = {"context": dict(data=1, context=4), "all": dict(data=1, fsdp=2, context=2, tensor=2)}
DOCUMENTS = (5, 9, 10)
"""Tokens of each document of a row: one ends within a device's tokens, one goes over three devices."""


def packed(x):
    """What packed rows read."""
    segments = np.repeat(np.arange(1, len(DOCUMENTS) + 1), DOCUMENTS)
    positions = np.concatenate([np.arange(length) for length in DOCUMENTS])
    whole = lambda row: jnp.asarray(np.broadcast_to(row.astype(np.int32), (ROWS, TOKENS)))
    return context(x, segment_ids=whole(segments), positions=whole(positions))


def gradients(case, packs):
    """The function (params, x) -> (output, gradients by both)."""

    def objective(params, x, given):
        out = case.apply(params, x, given)
        weigh = jnp.cos(jnp.arange(out.x.size, dtype=jnp.float32)).reshape(out.x.shape)
        return jnp.sum(out.x * weigh) + sum(out.aux.losses.values(), start=0.0), out.x

    def function(params, x):
        given = packed(x) if packs else context(x)
        (_, out), found = jax.value_and_grad(objective, argnums=(0, 1), has_aux=True)(params, x, given)
        return {"out": out, "gradients": found}

    return jit(function)


def compiled(case, packs, shape):
    """(its results on this mesh, the compiled program)."""
    mesh = meshes.make(meshes.Config(**shape), jax.devices()[: int(np.prod(list(shape.values())))])
    place = lambda names, leaf: jax.device_put(leaf, meshes.sharding(names, leaf.shape, mesh))
    with jax.set_mesh(mesh):
        params = jax.tree.map(place, axes(case.boxes), case.params, is_leaf=lambda names: isinstance(names, tuple))
        x = place(("batch", "sequence", None), inputs(ROWS, TOKENS, EMBED))
        program = gradients(case, packs).lower(params, x).compile()
        return program(params, x), program.as_text()


def results(operation: str, program: str) -> list[tuple[int, ...]]:
    """The shapes of what such operations of a program give."""
    found = re.findall(rf"= \(?\w+\[([\d,]+)\]\S* {operation}(?:-start)?\(", program)
    return [tuple(map(int, shape.split(","))) for shape in found]


def gathered_rows(program: str) -> list[tuple[int, ...]]:
    """What is gathered of all tokens of rows, but ids and flags, and what a router compares."""
    most = ROWS * max(cfg.num_experts for cfg in moe.EXAMPLES)
    return [shape for shape in results("all-gather", program) if TOKENS in shape and math.prod(shape) > TOKENS * most]


def assert_same(cfg, packs, shape):
    case = Case(cfg, EMBED)
    expected = gradients(case, packs)(case.params, inputs(ROWS, TOKENS, EMBED))
    actual, program = compiled(case, packs, shape)
    for path, value in tree.paths(expected["gradients"][0]).items():
        assert holds(tree.paths(actual["gradients"][0])[path], value), path
    assert holds(actual["out"], expected["out"]) and holds(actual["gradients"][1], expected["gradients"][1])
    assert not gathered_rows(program)
    return program


SPLIT = {name: cfg for name, cfg in (MIXERS | FFNS).items() if "context" not in cfg.lacks()}
FAST = ("attention_1", "mamba2_0")
EACH = [pytest.param(cfg, id=name, marks=[pytest.mark.slow] * (name not in FAST)) for name, cfg in SPLIT.items()]


@pytest.mark.parametrize("cfg", EACH)
def test_values_and_gradients_of_split_rows_are_those_of_whole_ones(cfg):
    assert_same(cfg, "segments" not in cfg.lacks(), MESHES["context"])


@pytest.mark.slow
@pytest.mark.parametrize("cfg", SPLIT.values(), ids=SPLIT)
def test_rows_that_are_not_packed_may_be_split_with_rows_heads_and_weights(cfg):
    assert_same(cfg, False, MESHES["all"])


HEADS = dict(num_heads=8, num_kv_heads=4, head_dim=2)
WAYS = {
    "ring": attention.Config(**HEADS, bias="all", sinks=True),
    "ring, all keys": attention.Config(**HEADS, causal=False),
    "ring, window": attention.Config(**HEADS, window=9),
    "ring, window both ways": attention.Config(**HEADS, window=4, causal=False),
    "ring, ALiBi and soft cap": attention.Config(**HEADS, position=alibi.Config(), soft_cap=3.0),
    "ring, relative": attention.Config(**HEADS, position=relative.EXAMPLES[0]),
    "heads": attention.Config(**HEADS, split="heads", sinks=True),
    "heads, window and ALiBi": attention.Config(**HEADS, split="heads", window=9, position=alibi.Config()),
    "heads, pattern": attention.Config(**HEADS, split="heads", pattern=strided.Config(stride=5), block=4),
}


@pytest.mark.slow
@pytest.mark.parametrize("cfg", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("shape", MESHES)
def test_attention_meets_tokens_of_other_devices_by_each_way(cfg, shape):
    program = assert_same(cfg, not cfg.sparse, MESHES[shape])
    assert ("all-to-all" in program) == (cfg.split == "heads")
    assert ("collective-permute" in program) or cfg.split == "heads"


LACKING = {name: cfg for name, cfg in (MIXERS | FFNS).items() if "context" in cfg.lacks()}


@pytest.mark.parametrize("name", LACKING)
def test_what_needs_whole_rows_is_refused_by_name(name):
    cfg = block.Config(sublayers=(LACKING[name],))
    x = inputs(ROWS, TOKENS, EMBED)
    with jax.set_mesh(meshes.make(meshes.Config(data=2, context=4))):
        with pytest.raises(ValueError, match=rf"mesh\.context=4 must be 1 with '{cfg.sublayers[0].label}'"):
            jax.eval_shape(cfg.make().init, jax.random.key(0), x, context(x))


REFUSED = {
    "too few heads": (attention.Config(**HEADS | {"num_kv_heads": 2}, split="heads"), "num_kv_heads=2"),
    "a bias of no distance": (attention.Config(**HEADS, split="heads", position=relative.EXAMPLES[0]), "position"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_attention_that_cannot_be_split_is_refused(name):
    cfg, words = REFUSED[name]
    x = inputs(ROWS, TOKENS, EMBED)
    with jax.set_mesh(meshes.make(meshes.Config(data=2, context=4))), pytest.raises(ValueError, match=words):
        jax.eval_shape(cfg.make().init, jax.random.key(0), x, context(x))


def test_a_recurrence_exchanges_states(optimized):
    """What is exchanged between devices are states, and the few tokens that a convolution looks back."""
    cfg = mamba2.EXAMPLES[0]
    _, program = compiled(Case(cfg, EMBED), True, MESHES["context"])
    sent = results("collective-permute", program)
    assert sent and all(shape[1] < TOKENS // 4 for shape in sent)
    assert any(shape[1] == cfg.conv_width - 1 for shape in sent) and any(len(shape) == 4 for shape in sent)
