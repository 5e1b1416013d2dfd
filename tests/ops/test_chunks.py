"""Time is cut into chunks and put together again, and a scan over them is the plain scan."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arch.ops import chunks

X = jnp.arange(2 * 7 * 3.0).reshape(2, 7, 3)


@pytest.mark.parametrize("chunk, count, size", [(1, 7, 1), (3, 3, 3), (4, 2, 4), (7, 1, 7), (99, 1, 7)])
def test_join_puts_together_what_split_cut(chunk, count, size):
    cut = chunks.split(X, chunk)
    assert cut.shape == (count, 2, size, 3)
    np.testing.assert_array_equal(chunks.join(cut, 7), X)


def test_behind_the_last_token_stands_the_fill():
    np.testing.assert_array_equal(chunks.split(X, 4, fill=9.0)[1, :, 3], np.full((2, 3), 9.0))


def test_a_chunk_of_no_tokens_is_refused():
    with pytest.raises(ValueError, match="chunk=0 must be a positive number of tokens"):
        chunks.split(X, 0)


def test_a_scan_has_the_values_and_gradients_of_lax_scan():
    step = lambda carry, x: (jnp.sin(carry + x), carry * x)
    total = lambda scan: lambda xs: sum(map(jnp.sum, scan(step, jnp.ones(3), xs)))
    for function in (lambda f: f, jax.grad):
        np.testing.assert_array_equal(function(total(chunks.scan))(X[0]), function(total(jax.lax.scan))(X[0]))
