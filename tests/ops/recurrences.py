"""What holds of each recurrence with a state, however it is computed and wherever a row is cut.

Everywhere `call(arrays, **settings)` gives (results [b t ...], state), and arrays["state"] is the state before the
first token. `seen` is what of a state is compared, where several stand for the same. In float64: the caller enables it.
"""

import jax
import jax.numpy as jnp
import numpy as np


def assert_same_gradients(call, arrays, *, reset, seen=lambda state: state, **settings):
    """By every array, with these settings as token by token, of a sum in which no two outputs weigh the same."""

    def gradients(**settings):
        def total(arrays):
            out, state = call(arrays, reset=reset, **settings)
            weights = lambda x: jnp.sin(jnp.arange(x.size, dtype=x.dtype).reshape(x.shape))
            return sum(jnp.sum(weights(x) * x) for x in jax.tree.leaves((out, seen(state))))

        return jax.tree.leaves_with_path(jax.jit(jax.grad(total))(arrays))

    for (path, expected), (_, actual) in zip(gradients(implementation="recurrent"), gradients(**settings), strict=True):
        assert jnp.any(expected != 0)
        np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-10, err_msg=jax.tree_util.keystr(path))


def assert_parts_are_the_whole(call, arrays, *, over_time, stop, reset, chunk, seen=lambda state: state):
    """A row in two parts, in chunks, the second from the state of the first, is the row token by token.

    Args:
      over_time: names of the arrays [b t ...].
      stop: where the second part begins.
    """

    @jax.jit
    def both(arrays):
        part = lambda start, end: arrays | {name: arrays[name][:, start:end] for name in over_time}
        first, state = call(part(0, stop), reset=reset[:, :stop], chunk=chunk)
        second, state = call(part(stop, None) | dict(state=state), reset=reset[:, stop:], chunk=chunk)
        out, last = call(arrays, reset=reset, implementation="recurrent")
        return (jnp.concatenate([first, second], axis=1), seen(state)), (out, seen(last))

    for actual, expected in zip(*map(jax.tree.leaves, both(arrays)), strict=True):
        np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-10)
