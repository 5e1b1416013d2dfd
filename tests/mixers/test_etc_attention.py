"""ETC's attention is the paper's equation over all pairs that it shows, and grows with the row alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arch.layers.contract import Context
from arch.layers.flops import Row
from arch.layers.weight import unbox
from arch.mixers import etc_attention
from tests.contracts.sublayers import EMBED, TOKENS, Case, context, holds, inputs

[CFG] = etc_attention.EXAMPLES
PARTS = np.array([0, 1, 2, 3, *[0] * 5, *[1] * 4, *[3] * 6, *[7] * 2])
"""Of each token of a row: one for each global token, then those of the text; nobody stands for part 7."""


def reference(params, x, parts=None, length=TOKENS, cfg=CFG):
    """[t d] of one row, of which so many tokens are real: pair by pair, as the paper has it."""
    g, c, h = cfg.num_globals, cfg.max_distance, cfg.head_dim
    query, key, value = (
        np.einsum("td,dnh->tnh", x, params[name]) + params[f"{name}_bias"] for name in ("query", "key", "value")
    )
    out = np.zeros_like(query)
    for i in range(len(x)):
        logits, values = [], []
        for j in range(length):
            same = int(parts is not None and parts[i] == parts[j])
            distance = np.clip(j - i, -c, c) + c
            if i < g:
                label = params["global_labels"][distance] if j < g else params["global_other_labels"][same]
            elif j < g:
                label = params["other_global_labels"][same]
            elif abs(j - i) <= cfg.radius:
                label = params["near_labels"][distance]
            else:
                continue
            if cfg.own_part and i < g <= j and not same:
                continue
            logits.append(np.einsum("nh,nh->n", query[i], key[j] + label) / np.sqrt(h))
            values.append(value[j])
        weights = np.exp(np.array(logits) - np.max(logits, axis=0))
        out[i] = np.einsum("sn,snh->nh", weights / weights.sum(axis=0), np.array(values))
    return np.einsum("tnh,nhd->td", out, params["out"]) + params["out_bias"]


@pytest.mark.parametrize(
    "parts, own", [(None, False), (PARTS, True), pytest.param(PARTS, False, marks=pytest.mark.slow)]
)
def test_it_is_the_paper_s_equation_for_rows_of_any_length(parts, own):
    cfg = CFG.replace(own_part=own)
    case, lengths = Case(cfg), (TOKENS, 11, 6)
    valid = jnp.arange(TOKENS) < jnp.asarray(lengths)[:, None]
    types = None if parts is None else jnp.broadcast_to(jnp.asarray(parts), valid.shape)
    out = case(inputs(), context(inputs(), valid=valid, token_types=types)).x
    params = jax.tree.map(np.asarray, case.params)
    for row, length in enumerate(lengths):
        expected = reference(params, np.asarray(inputs())[row], parts, length, cfg)
        assert holds(out[row, :length], expected[:length])


@pytest.mark.parametrize("length", [pytest.param(1, marks=pytest.mark.slow), 5])
def test_a_row_may_be_short(length):
    case = Case(CFG)
    x = inputs()[:, :length]
    out, params = case(x, context(x)).x, jax.tree.map(np.asarray, case.params)
    assert holds(out[0], reference(params, np.asarray(x[0]), length=length))


def test_flops_grow_with_the_row_and_not_with_its_square():
    cfg = etc_attention.Config(num_heads=12, head_dim=64, num_globals=230)
    short, long = (cfg.flops(Row(length=length, embed_dim=768)) for length in (8192, 16384))
    assert long.executed < 2.05 * short.executed and short.executed < 1.3 * short.required
    pairs = 2 * 2 * 12 * 64 * 16384  # two products, two operations each, of each token with ...
    others = long.executed - 4 * 2 * 16384 * 768**2
    assert others < 1.1 * pairs * (3 * 84 + 2 * 230 + 27)  # ... three blocks, the global tokens both ways, the labels


@pytest.mark.slow
def test_memory_grows_with_the_row_and_not_with_its_square():
    cfg = etc_attention.Config(num_heads=2, head_dim=4, num_globals=16, radius=32)
    params = unbox(jax.eval_shape(cfg.make().init, jax.random.key(0), inputs(), context(inputs()))["params"])

    def bytes_of(length):
        x = jax.ShapeDtypeStruct((1, length, EMBED), jnp.float32)

        def objective(params, x):
            return jnp.sum(cfg.make().apply({"params": params}, x, Context(positions=jnp.arange(length)[None])).x ** 2)

        return jax.jit(jax.grad(objective)).lower(params, x).compile().memory_analysis().temp_size_in_bytes

    assert bytes_of(8192) < 2.2 * bytes_of(4096)
