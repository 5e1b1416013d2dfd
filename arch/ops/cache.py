"""Writing the valid tokens of ragged rows into per-row caches."""

import jax
import jax.numpy as jnp

from arch.typing import Array, Bool, Int, Num


def slots(length: Int[Array, "b"], valid: Bool[Array, "b t"], size: int) -> tuple[Int[Array, "b t"], Int[Array, "b"]]:
    """Where each token goes in a cache that already holds `length` tokens a row, and the new lengths.

    Args:
      length: [b] tokens that each row holds.
      valid: [b t]; a token that is not valid gets slot `size`, which `write` drops.
      size: slots a row.
    """
    place = length[:, None] + jnp.cumsum(valid, axis=1, dtype=jnp.int32) - 1
    return jnp.where(valid, place, size), length + jnp.sum(valid, axis=1, dtype=jnp.int32)


def write(
    cache: Num[Array, "b k s h"], slot: Int[Array, "b t"], values: Num[Array, "b t k h"]
) -> Num[Array, "b k s h"]:
    """The cache with each token's values in its slot; a slot outside is dropped.

    Heads stand before tokens, as attention's products want them, and the result is computed once for all its readers:
    otherwise a step on CPU copies the whole cache.
    """
    rows = jnp.arange(cache.shape[0])[:, None]
    return jax.lax.optimization_barrier(cache.at[rows, :, slot].set(values.astype(cache.dtype), mode="drop"))
