"""The values that pass between sublayers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arch.layers.contract import Aux, Context, positions_of

POSITIONS = jnp.asarray([[0, 1, 2, 0, 1], [0, 1, 2, 3, 4]])


def test_real_tokens_are_valid_and_in_a_segment():
    valid = jnp.asarray([[True, True, True, False, False], [True, True, True, True, False]])
    segments = jnp.asarray([[1, 1, 0, 2, 2], [1, 2, 2, 3, 3]])
    context = Context(POSITIONS, segment_ids=segments, valid=valid)
    np.testing.assert_array_equal(context.real(), [[1, 1, 0, 0, 0], [1, 1, 1, 1, 0]])


def test_all_tokens_are_real_when_nothing_says_otherwise():
    assert Context(POSITIONS).real().all()


def test_starts_are_the_first_tokens_of_segments():
    segments = jnp.asarray([[1, 1, 2, 2, 0], [1, 2, 3, 3, 3]])
    np.testing.assert_array_equal(Context(POSITIONS, segment_ids=segments).starts(), [[1, 0, 1, 0, 1], [1, 1, 1, 0, 0]])


def test_rows_that_are_not_packed_have_no_starts():
    assert Context(POSITIONS).starts() is None


def test_folding_without_a_key_changes_nothing():
    context = Context(POSITIONS)
    assert context.fold(3) is context


def test_folding_different_numbers_gives_different_keys():
    context = Context(POSITIONS, key=jax.random.key(0))
    data = [tuple(np.asarray(jax.random.key_data(context.fold(i).key))) for i in range(3)]
    assert len(set(data)) == 3


@pytest.mark.parametrize(("start", "expected"), [(0, [[0, 1, 2], [0, 1, 2]]), ([4, 2], [[4, 5, 6], [2, 3, 4]])])
def test_positions_count_from_the_start_of_each_row(start, expected):
    start = start if isinstance(start, int) else jnp.asarray(start)
    np.testing.assert_array_equal(positions_of(jnp.zeros((2, 3), int), start), expected)


def test_losses_of_the_same_name_add_up_and_statistics_stay_apart():
    total = Aux({"z": jnp.float32(1)}, {"a": jnp.ones(2)}) + Aux({"z": jnp.float32(2), "balance": jnp.float32(3)})
    assert total.losses == {"z": 3.0, "balance": 3.0} and list(total.stats) == ["a"]


def test_a_prefix_goes_before_the_statistics_names_only():
    aux = Aux({"z": jnp.float32(1)}, {"load": jnp.ones(2)}).under("moe").under("3")
    assert list(aux.losses) == ["z"] and list(aux.stats) == ["3/moe/load"]
