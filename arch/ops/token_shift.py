"""Token shift: the token before each one, zeros before the first of a document.

Source: Peng et al. 2023, "RWKV: Reinventing RNNs for the Transformer Era" (arXiv 2305.13048, sec. 3.1.1).
"""

import jax.numpy as jnp

from arch.ops.causal_conv import last_valid
from arch.typing import Array, Bool, Float


def token_shift(
    x: Float[Array, "b t d"],
    *,
    last: Float[Array, "b d"] | None = None,
    reset: Bool[Array, "b t"] | None = None,
    valid: Bool[Array, "b t"] | None = None,
) -> tuple[Float[Array, "b t d"], Float[Array, "b d"]]:
    """The predecessors, and the last token.

    Args:
      x: tokens.
      last: the token before x[:, 0]; None is zeros.
      reset: true at the first token of a packed segment, which has no predecessor.
      valid: which tokens are real; the real ones of a row come first. None is all.

    Returns:
      [b t d] the token before each one, and [b d] the last valid one (`last` where a row has none), in x.dtype.
    """
    first = jnp.zeros_like(x[:, 0]) if last is None else last.astype(x.dtype)
    tokens = jnp.concatenate([first[:, None], x], axis=1)
    before = tokens[:, :-1]
    if reset is not None:
        before = jnp.where(reset[..., None], 0, before)
    return before, last_valid(tokens, valid, 1)[:, 0]
