"""Valid tokens take the next slots of their row; others leave no trace."""

import jax.numpy as jnp
import numpy as np

from arch.ops.cache import slots, write

LENGTH = jnp.asarray([0, 2, 5])
VALID = jnp.asarray([[True, True, True], [True, True, False], [False, False, False]])
SIZE = 7


def test_valid_tokens_take_the_next_slots_and_others_a_slot_outside():
    np.testing.assert_array_equal(slots(LENGTH, VALID, SIZE)[0], [[0, 1, 2], [2, 3, 7], [7, 7, 7]])


def test_lengths_grow_by_the_valid_tokens():
    np.testing.assert_array_equal(slots(LENGTH, VALID, SIZE)[1], [3, 4, 5])


def test_values_land_in_their_slots_and_the_rest_stays():
    cache = jnp.full((3, 1, SIZE, 1), -1.0)
    values = jnp.asarray([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0], [7.0, 8.0, 9.0]])[:, :, None, None]
    out = write(cache, slots(LENGTH, VALID, SIZE)[0], values)
    np.testing.assert_array_equal(out[:, 0, :, 0], [[1, 2, 3, -1, -1, -1, -1], [-1, -1, 4, 5, -1, -1, -1], [-1] * 7])


def test_each_head_gets_its_own_values():
    values = jnp.arange(12.0).reshape(1, 2, 2, 3)
    out = write(jnp.zeros((1, 2, 3, 3)), jnp.asarray([[2, 0]]), values)
    np.testing.assert_array_equal(out[0, :, 2], values[0, 0])
    np.testing.assert_array_equal(out[0, :, 0], values[0, 1])


def test_a_token_too_many_is_dropped():
    cache = jnp.arange(14.0).reshape(2, 1, SIZE, 1)
    slot, length = slots(jnp.asarray([7, 6]), jnp.ones((2, 1), bool), SIZE)
    expected = cache.at[1, 0, 6].set(-1.0)
    np.testing.assert_array_equal(write(cache, slot, jnp.full((2, 1, 1, 1), -1.0)), expected)
    np.testing.assert_array_equal(length, [8, 7])


def test_values_take_the_cache_s_type():
    out = write(jnp.zeros((1, 1, 2, 3), jnp.bfloat16), jnp.asarray([[1]]), jnp.ones((1, 1, 1, 3), jnp.float32))
    assert out.dtype == jnp.bfloat16 and out[0, 0, 1, 2] == 1
