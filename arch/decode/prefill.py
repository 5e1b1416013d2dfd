"""Prefill: reading prompts into the caches, all at once or a chunk of tokens at a time.

Read in chunks, a prompt costs the memory of its caches and of one chunk: a chunk's tokens see one another and what the
caches hold, so that an attention without a window has c x N logits at a time where one pass has N x N. The logits that
follow are the same for any chunk. (Agrawal et al., Sarathi, 2023, arXiv 2308.16369, sec. 4.1, has the name.)
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from arch import tree
from arch.layers.contract import Context
from arch.typing import Array, Int


def prefill(
    model: Any, params: tree.Tree, tokens: Int[Array, "b t"], context: Context, cache: Any, *, chunk: int = 0
) -> Any:
    """The caches with the tokens of a call read into them.

    Args:
      model: a Linen language model with the contract's call.
      params: its parameters, in canonical form.
      tokens: [b t].
      context: theirs, with positions and valid.
      cache: what came before.
      chunk: tokens at a time; 0 for all at once.
    """
    t = tokens.shape[1]
    if not 0 < chunk < t:
        return model.apply({"params": params}, tokens, context, cache).cache
    rest = ((0, 0), (0, -t % chunk))
    tokens, valid = jnp.pad(tokens, rest), jnp.pad(context.valid, rest)
    positions = jnp.pad(context.positions, rest, mode="edge")

    def read(cache, begin):
        part = lambda array: jax.lax.dynamic_slice_in_dim(array, begin, chunk, axis=1)
        own = dataclasses.replace(context, positions=part(positions), valid=part(valid))
        return model.apply({"params": params}, part(tokens), own, cache).cache, None

    return jax.lax.scan(read, cache, jnp.arange(0, t, chunk))[0]
