"""Token shift gives the token before each one, across calls and not across documents."""

import jax.numpy as jnp
import numpy as np

from arch.ops.token_shift import token_shift

X = jnp.arange(1.0, 2 * 5 * 3 + 1).reshape(2, 5, 3)


def test_each_token_gets_its_predecessor_and_the_first_one_zeros():
    before, last = token_shift(X)
    np.testing.assert_array_equal(before, np.pad(X, ((0, 0), (1, 0), (0, 0)))[:, :-1])
    np.testing.assert_array_equal(last, X[:, -1])


def test_two_calls_equal_one():
    first, last = token_shift(X[:, :2])
    second, last = token_shift(X[:, 2:], last=last)
    np.testing.assert_array_equal(jnp.concatenate([first, second], axis=1), token_shift(X)[0])
    np.testing.assert_array_equal(last, X[:, -1])


def test_the_first_token_of_a_segment_has_no_predecessor():
    reset = jnp.zeros((2, 5), bool).at[1, 3].set(True)
    before, _ = token_shift(X, last=X[:, 0], reset=reset)
    assert not before[1, 3].any()
    np.testing.assert_array_equal(before[0], token_shift(X, last=X[:, 0])[0][0])


def test_the_last_token_is_the_last_valid_one():
    valid = jnp.arange(5) < jnp.array([[0], [3]])
    np.testing.assert_array_equal(token_shift(X, last=7 + X[:, 0], valid=valid)[1], jnp.stack([7 + X[0, 0], X[1, 2]]))
