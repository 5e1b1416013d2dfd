"""BigBird's attention equals a dense reference in which a pair counts as often as it is seen."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arch.layers.contract import Context
from arch.layers.flops import Row
from arch.layers.weight import unbox
from arch.mixers import bigbird_attention
from arch.ops.patterns import released_blocks
from tests.contracts.sublayers import EMBED, ROWS, TOKENS, Case, context, holds, inputs

SIZES = dict(num_heads=2, head_dim=3, block_size=2, random=2, longest=32, bias=True, block=4)
CFG = bigbird_attention.Config(**SIZES, seed=5)
FIRST = CFG.replace(evaluation="first")


def counts(tokens, random):
    """[n t t] how often a pair is seen: by the rules of the paper, one block of queries at a time, and by `random`, the
    blocks of each head and block of queries."""
    size, blocks = 2, -(-tokens // 2)
    seen = np.zeros((2, blocks, blocks), int)
    for row in range(blocks):
        ends = row in (0, blocks - 1)
        near = range(blocks) if ends else {0, row - 1, row, row + 1, blocks - 1}
        seen[:, row, list(near)] = 1
        for head in range(2):
            np.add.at(seen[head, row], list(random[head][row]), 1)
    return seen.repeat(size, 1).repeat(size, 2)[:, :tokens, :tokens]


def drawn(tokens):
    return released_blocks(2, seed=5, size=2, draws=2, longest=32).at(tokens, tokens).table


def first(tokens):
    rows = -(-tokens // 2) - 2
    return [[(), *[(0, 0)] * rows, ()]] * 2


def reference(params, x, seen):
    """[t d] of one row, with all pairs at once."""
    query, key, value = (
        np.einsum("td,dnh->tnh", x, params[name]) + params[f"{name}_bias"] for name in ("query", "key", "value")
    )
    weights = seen * np.exp(np.einsum("tnh,snh->nts", query, key) / np.sqrt(query.shape[-1]))
    out = np.einsum("nts,snh->tnh", weights / weights.sum(axis=-1, keepdims=True), value)
    return np.einsum("tnh,nhd->td", out, params["out"]) + params["out_bias"]


def assert_counted(cfg, seen, **read):
    case = Case(cfg)
    out, params = case(inputs(), context(inputs(), **read)).x, jax.tree.map(np.asarray, case.params)
    for row in range(ROWS):
        assert holds(out[row], reference(params, np.asarray(inputs())[row], seen))


def test_it_is_the_dense_reference_with_the_blocks_that_were_drawn():
    assert_counted(CFG, counts(TOKENS, drawn(TOKENS)))


def test_transformers_evaluation_counts_the_first_block_once_more_for_each_random_one():
    assert_counted(FIRST, counts(TOKENS, first(TOKENS)))


def test_its_training_draws_nevertheless():
    assert_counted(FIRST, counts(TOKENS, drawn(TOKENS)), deterministic=False, key=jax.random.key(0))


def test_without_random_blocks_training_is_evaluation():
    none = bigbird_attention.Config(**SIZES | dict(random=0), evaluation="first")
    assert_counted(none, counts(TOKENS, [[()] * 11] * 2))


@pytest.mark.parametrize("length, full", [(18, True), (19, False)])
def test_rows_of_no_more_than_5_and_twice_the_random_blocks_see_all(length, full):
    maps = CFG.maps(length)
    assert (len(maps) == 1 and maps[0].dense().all()) == full


def test_a_drawn_block_that_is_the_last_one_counts_twice():
    # in 1024 tokens blocks 1 to 15 of 64 are drawn from, and 15 is the last one
    near, random = bigbird_attention.Config(num_heads=2, head_dim=3).maps(1024)
    both = near.dense() & random.dense()
    assert both[..., -64:].any() and not both[..., :-64].any()


def test_layers_with_seeds_of_their_own_draw_differently():
    assert not np.array_equal(CFG.maps(TOKENS)[1].dense(), CFG.replace(seed=6).maps(TOKENS)[1].dense())


LONG = bigbird_attention.Config(num_heads=2, head_dim=4, block_size=32, longest=8192, block=64)


def test_flops_grow_with_the_row_and_not_with_its_square():
    short, long = (LONG.flops(Row(length=length, embed_dim=5)).executed for length in (4096, 8192))
    assert long < 2.1 * short


@pytest.mark.slow
def test_memory_grows_with_the_row_and_not_with_its_square():
    params = unbox(jax.eval_shape(LONG.make().init, jax.random.key(0), inputs(), context(inputs()))["params"])

    def bytes_of(length):
        x = jax.ShapeDtypeStruct((1, length, EMBED), jnp.float32)

        def objective(params, x):
            read = Context(positions=jnp.arange(length)[None])
            return jnp.sum(LONG.make().apply({"params": params}, x, read).x ** 2)

        return jax.jit(jax.grad(objective)).lower(params, x).compile().memory_analysis().temp_size_in_bytes

    assert bytes_of(8192) < 2.2 * bytes_of(4096)
