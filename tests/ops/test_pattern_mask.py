"""Rows of a mask made on the device are those of the pattern, at places that are known there only."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arch.ops.pattern_mask import mask_rows
from arch.ops.patterns import block_list, block_map, by_head, causal, fixed, full, global_tokens, random_blocks, window

LENGTH = 23
PATTERNS = {
    "window_and_globals": causal & (window(4) | global_tokens(0, 9)),
    "full": full,
    "own_heads": by_head(window(3), fixed(5), each=2) | random_blocks(2, 1, size=4, draws=4),
    "rows_that_see_nothing": block_list(5, ((0, 2), (), (1,))),
    "nothing": block_list(5, ()),
}


@pytest.mark.parametrize("name", PATTERNS)
def test_rows_are_those_of_the_pattern(name):
    made = block_map(PATTERNS[name], LENGTH, LENGTH, block=(4, 3))
    place = jnp.asarray([[3, 22, 0], [7, 6, 14]])
    rows = jax.jit(lambda place: mask_rows(made, place))(place)
    np.testing.assert_array_equal(rows, np.moveaxis(made.dense()[:, place], 0, 1))


def test_a_place_outside_gets_the_nearest_row():
    made = block_map(causal, 7, 7, block=(2, 2))
    np.testing.assert_array_equal(mask_rows(made, jnp.asarray([[-3, 9]])), mask_rows(made, jnp.asarray([[0, 6]])))


def test_a_step_costs_what_a_row_is_long():
    sizes = []
    for length in (4096, 16384):
        made = block_map(causal & (window(64) | global_tokens(0)), length, length, block=(64, 64))
        step = jax.jit(lambda place, made=made: mask_rows(made, place)).lower(jnp.zeros((2, 1), jnp.int32)).compile()
        sizes.append(step.cost_analysis()["bytes accessed"])
    assert sizes[1] < 5 * sizes[0]
