"""Longformer's attention equals a dense reference, with global tokens that each row chooses for itself."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arch.layers.contract import Context
from arch.layers.flops import Row
from arch.layers.weight import unbox
from arch.mixers import longformer_attention
from arch.ops.patterns import window
from tests.contracts.sublayers import EMBED, ROWS, TOKENS, Case, context, holds, inputs

SIZES = dict(num_heads=4, head_dim=3, window=4, max_globals=3, block=4)
CFG = longformer_attention.Config(**SIZES, dilations=(1, 3), bias=True)
GLOBALS = {0: (2, 9, 20), 1: (), 2: (7,)}


def chosen():
    """[b t] 3, no and 1 global tokens."""
    mask = np.zeros((ROWS, TOKENS), bool)
    for row, places in GLOBALS.items():
        mask[row, list(places)] = True
    return jnp.asarray(mask)


def reference(params, x, mask):
    """[t d] of one row whose global tokens the mask [t] tells, with all pairs at once."""
    heads = lambda name: np.einsum("td,dnh->tnh", x, params[name]) + params[f"{name}_bias"]

    def softmax(query, key, value, visible):
        logits = np.einsum("tnh,snh->nts", query, key) / np.sqrt(query.shape[-1])
        weights = np.where(visible, np.exp(logits - logits.max(axis=-1, keepdims=True)), 0.0)
        return np.einsum("nts,snh->tnh", weights / weights.sum(axis=-1, keepdims=True), value)

    near = np.repeat([window(3, dilation=dilation).dense(len(x), len(x))[0] for dilation in (1, 3)], 2, axis=0)
    local = softmax(*(heads(name) for name in ("query", "key", "value")), near | mask)
    whole = softmax(*(heads(f"{name}_global") for name in ("query", "key", "value")), np.ones_like(near))
    out = np.where(mask[:, None, None], whole, local)
    return np.einsum("tnh,nhd->td", out, params["out"]) + params["out_bias"]


def test_it_is_the_dense_reference_with_globals_chosen_at_run_time():
    case = Case(CFG)
    out = case(inputs(), context(inputs(), globals=chosen())).x
    params = jax.tree.map(np.asarray, case.params)
    for row in range(ROWS):
        assert holds(out[row], reference(params, np.asarray(inputs())[row], np.asarray(chosen())[row]))


def test_other_globals_compile_nothing():
    case = Case(CFG)
    for shift in (0, 1):
        case(inputs(), context(inputs(), globals=jnp.roll(chosen(), shift, axis=1)))
    assert case.traces == 1


def test_a_row_with_more_globals_than_it_may_have_is_nan_and_no_other():
    out = Case(CFG)(inputs(), context(inputs(), globals=chosen().at[0, 5].set(True))).x
    assert np.isnan(out[0]).all() and np.isfinite(out[1:]).all()


def test_padding_is_never_global():
    valid = jnp.arange(TOKENS) < jnp.asarray([[TOKENS], [TOKENS], [6]])
    case = Case(CFG)
    out = case(inputs(), context(inputs(), globals=chosen(), valid=valid)).x
    none = case(inputs(), context(inputs(), globals=chosen().at[2].set(False), valid=valid)).x
    np.testing.assert_array_equal(out, none)


@pytest.mark.slow
def test_memory_and_flops_grow_with_the_row_and_not_with_its_square():
    cfg = longformer_attention.Config(num_heads=2, head_dim=4, window=64, max_globals=8, block=64)
    params = unbox(jax.eval_shape(cfg.make().init, jax.random.key(0), inputs(), context(inputs()))["params"])

    def bytes_of(length):
        x = jax.ShapeDtypeStruct((1, length, EMBED), jnp.float32)

        def objective(params, x):
            positions = jnp.arange(length)[None]
            read = Context(positions=positions, globals=positions < 3)
            return jnp.sum(cfg.make().apply({"params": params}, x, read).x ** 2)

        return jax.jit(jax.grad(objective)).lower(params, x).compile().memory_analysis().temp_size_in_bytes

    assert bytes_of(8192) < 2.2 * bytes_of(4096)
    assert cfg.flops(Row(length=8192, embed_dim=5)).executed < 2.1 * cfg.flops(Row(length=4096, embed_dim=5)).executed


REFUSED = {
    "window=7 must be even": dict(window=7),
    "dilations=\\(1, 2, 3\\) must be as many as share num_heads=4 evenly": dict(dilations=(1, 2, 3)),
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_cannot_work_is_refused(message):
    with pytest.raises(ValueError, match=message):
        longformer_attention.Config(num_heads=4, head_dim=3, **REFUSED[message])
