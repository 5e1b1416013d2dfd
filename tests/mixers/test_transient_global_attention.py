"""Transient-global attention equals all pairs at once of a document and its summaries, and grows with the row alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arch.layers.contract import Context
from arch.layers.flops import Row
from arch.layers.weight import unbox
from arch.mixers import transient_global_attention
from arch.ops import relative
from arch.positions import none, rope
from tests.contracts.sublayers import EMBED, TOKENS, Case, context, holds, inputs

[CFG] = transient_global_attention.EXAMPLES


def reference(params, x):
    """[t d] of one document."""
    heads = lambda name, x: np.einsum("td,dnh->tnh", x, params[name])
    t, size = len(x), CFG.summary
    whole = t // size
    own = np.minimum(np.arange(t) // size, whole - 1)
    total = np.stack([x[own == m].sum(axis=0) for m in range(whole)])
    total = total / np.sqrt((total**2).mean(axis=1, keepdims=True) + CFG.epsilon) * params["summary_scale"]
    seen = np.concatenate([x, total])

    def bias(name, query, key):
        given = [jnp.asarray(array) for array in (params[name], query[None], key[None])]
        return np.asarray(relative.bias(*given, max_distance=11, bidirectional=True))[0]

    biases = bias("relative", np.arange(t), np.arange(t)), bias("global_relative", own, np.arange(whole))
    logits = np.einsum("tnh,snh->nts", heads("query", x), heads("key", seen)) + np.concatenate(biases, axis=2)
    near = np.abs(np.arange(t)[:, None] - np.arange(t)) <= CFG.radius
    logits = np.where(np.concatenate([near, np.ones((t, whole), bool)], axis=1), logits, -np.inf)
    weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
    weights /= weights.sum(axis=-1, keepdims=True)
    return np.einsum("nts,snh,nhd->td", weights, heads("value", seen), params["out"])


def test_it_is_the_reference_for_rows_with_a_rest_behind_their_blocks():
    case, lengths = Case(CFG), (TOKENS, 16, 5)
    valid = jnp.arange(TOKENS) < jnp.asarray(lengths)[:, None]
    out = case(inputs(), context(inputs(), valid=valid)).x
    params = jax.tree.map(np.asarray, case.params)
    for row, length in enumerate(lengths):
        assert holds(out[row, :length], reference(params, np.asarray(inputs())[row, :length]))


@pytest.mark.slow
def test_a_row_without_a_whole_block_sees_its_window_alone():
    case = Case(CFG)
    short = inputs()[:, :2]
    changed = case.params | {name: 2 * case.params[name] for name in ("global_relative", "summary_scale")}
    np.testing.assert_array_equal(case(short, context(short)).x, case.apply(changed, short, context(short)).x)


def test_without_a_position_scheme_there_are_no_weights_for_it():
    assert "relative" not in Case(CFG.replace(position=none.Config())).params


def test_later_layers_read_the_tables_of_the_first():
    position = CFG.position.replace(shares=True)
    first = Case(CFG.replace(position=position))
    shared = first(inputs(), context(inputs())).shared
    assert shared.keys() == {"relative", "global_relative"}
    later = CFG.replace(position=position.replace(owner=False)).make()
    params = {name: value for name, value in first.params.items() if name not in shared}
    out = later.apply({"params": params}, inputs(), context(inputs(), shared=shared)).x
    assert holds(out, first.full)


@pytest.mark.slow
def test_memory_and_flops_grow_with_the_window_and_the_summaries_and_not_with_all_pairs():
    cfg = CFG.replace(radius=63, summary=16, block=64)
    params = unbox(jax.eval_shape(cfg.make().init, jax.random.key(0), inputs(), context(inputs()))["params"])

    def bytes_of(length):
        x = jax.ShapeDtypeStruct((1, length, EMBED), jnp.float32)

        def objective(params, x):
            return jnp.sum(cfg.make().apply({"params": params}, x, Context(positions=jnp.arange(length)[None])).x ** 2)

        return jax.jit(jax.grad(objective)).lower(params, x).compile().memory_analysis().temp_size_in_bytes

    assert bytes_of(8192) < 2.2 * bytes_of(4096)
    pairs = 12 * 2 * 8192 * (8192 // 16 + 127)  # two products of 3 heads of 4 channels, two operations each
    assert cfg.flops(Row(length=8192, embed_dim=5)).required < 2.2 * pairs


def test_positions_that_turn_heads_are_refused():
    with pytest.raises(ValueError, match="position='rope' must act at logits here; it acts at heads"):
        CFG.replace(position=rope.Config())
