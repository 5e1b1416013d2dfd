"""Attention with a pattern sees just what the pattern shows, costs its blocks, and decodes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arch.layers.flops import Row
from arch.mixers import attention
from arch.ops.patterns import causal, global_tokens, window
from arch.patterns import bigbird, by_head, longformer, strided
from arch.positions import alibi, relative
from tests.contracts.sublayers import EMBED, ROWS, TOKENS, Case, context, holds, inputs, jit

SEEN = longformer.Config(window=4, globals=(3,))
BIGBIRD = bigbird.Config(block=3, window=1, random=1, seed=2, per_head=True)
MIXED = by_head.Config(parts=(SEEN, strided.Config(stride=5)))
TABLE = relative.Config(buckets=6, max_distance=11, bidirectional=True, shares=False)
CASES = {
    "random_blocks_of_each_head": dict(num_heads=4, num_kv_heads=2, pattern=BIGBIRD, causal=False),
    "relative_bias_and_soft_cap": dict(num_heads=2, pattern=SEEN, position=TABLE, causal=False, soft_cap=3.0),
    "alibi_and_sinks": dict(num_heads=3, pattern=SEEN, position=alibi.Config(), sinks=True, window=7),
    "heads_that_differ_and_a_bias": dict(num_heads=4, pattern=MIXED, position=TABLE, scale=0.3),
}


def case_of(name):
    return Case(attention.Config(head_dim=4, block=4, **CASES[name]))


def dense(case, params, x):
    """The same by way of a cache, which is read with a mask of all pairs."""
    return case.apply(params, x, context(x), case.cfg.init_cache(ROWS, TOKENS, EMBED, jnp.float32)).x


EACH = [pytest.param(name, marks=[pytest.mark.slow] * (name != next(iter(CASES)))) for name in CASES]


@pytest.mark.parametrize("name", EACH)
def test_blocks_and_gradients_are_those_of_the_dense_mask(name):
    case = case_of(name)

    def graded(function):
        weigh = jnp.cos(jnp.arange(ROWS * TOKENS * EMBED, dtype=jnp.float32)).reshape(ROWS, TOKENS, EMBED)
        objective = lambda params, x: (jnp.sum(weigh * function(params, x)), function(params, x))
        return jit(jax.grad(objective, argnums=(0, 1), has_aux=True))(case.params, inputs())

    actual = graded(lambda params, x: case.apply(params, x, context(x)).x)
    expected = graded(lambda params, x: dense(case, params, x))
    jax.tree.map(lambda one, other: np.testing.assert_(holds(one, other)), actual, expected)


def test_it_sees_what_the_pattern_and_causality_let():
    case = Case(attention.Config(num_heads=2, head_dim=4, pattern=SEEN, block=4))
    mask = (causal & (window(3) | global_tokens(3))).dense(TOKENS, TOKENS)[0]
    for token in (0, 3, 11):
        changed = np.asarray(case(inputs().at[:, token].add(1.0), context(inputs())).x) - case.full
        np.testing.assert_array_equal(np.abs(changed).max(axis=(0, 2)) > 1e-6, mask[:, token])


def test_flops_are_those_of_the_visible_pairs():
    cfg = attention.Config(num_heads=2, head_dim=4, causal=False, pattern=bigbird.Config(block=8))
    row = Row(length=1024, embed_dim=8)
    pairs, projections = int(cfg.pattern.make(2).dense(1024, 1024).sum()), 2 * 1024 * 8 * 4 * 8
    assert cfg.flops(row).required == projections + 2 * 2 * 8 * pairs
    assert projections + 2 * 2 * 8 * pairs < cfg.flops(row).executed < projections + 2 * 2 * 8 * 1024**2


def test_time_grows_with_the_row_and_not_with_its_square():
    cfg = attention.Config(num_heads=2, head_dim=4, pattern=longformer.Config(window=128), block=256)
    short, long = (cfg.flops(Row(length=length, embed_dim=8)).executed for length in (8192, 32768))
    assert long < 4.1 * short


REFUSED = {
    "dropout=0.1 must be 0 with a pattern": dict(dropout=0.1),
    "num_heads=3 must be a multiple of the 2 parts": dict(num_heads=3, pattern=MIXED),
    "block=4096 must be at least 0 and at most 1024": dict(block=4096),
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_cannot_work_is_refused(message):
    with pytest.raises(ValueError, match=message):
        attention.Config(**dict(num_heads=2, head_dim=4, pattern=SEEN) | REFUSED[message])


def test_a_row_of_more_blocks_than_can_be_looked_at_is_refused():
    cfg = attention.Config(num_heads=2, head_dim=4, pattern=SEEN, block=64)
    with pytest.raises(ValueError, match="length=2000000000 must be at most 2097152 with a pattern of 1 heads"):
        cfg.flops(Row(length=2_000_000_000, embed_dim=8))
