"""Attention by cuDNN, which JAX calls: of NVIDIA's GPUs since Ampere, in 16 bits, forward and backward.

It takes query, key and value alone. It has causal attention, the last tokens of a window and all tokens; not packed
documents, keys that nobody sees, a soft cap, sinks or a bias that is not an array of all pairs.
"""

from collections.abc import Set

import jax
import jax.numpy as jnp

from arch.kernels.devices import is_hopper, is_nvidia_since_ampere
from arch.typing import Array, Float


def misfit(
    device_kind: str, dtype, channels: tuple[int, int], *, causal: bool, window: int, beside: Set[str] = frozenset()
) -> str:
    """Why it does not compute this; '' if it does. Arguments as in `choice.choose`."""
    most = 256 if is_hopper(device_kind) else 128
    if not is_nvidia_since_ampere(device_kind):
        return f"device_kind={device_kind!r} must be an NVIDIA GPU, of the Ampere generation or later,"
    if jax.default_backend() != "gpu":
        return "this process must see a GPU, with which JAX brings cuDNN,"
    if jnp.dtype(dtype) not in (jnp.bfloat16, jnp.float16):
        return f"dtype={jnp.dtype(dtype).name} must be bfloat16 or float16"
    if channels[0] != channels[1] or channels[0] % 8 or channels[0] > most:
        return f"channels={channels} must be the same, a multiple of 8 and at most {most},"
    if window and not causal:
        return f"window={window} must be 0 where attention is not causal"
    return f"{', '.join(sorted(beside))} must not be given" if beside else ""


def attend(
    query: Float[Array, "b t n h"],
    key: Float[Array, "b t k h"],
    value: Float[Array, "b t k h"],
    *,
    causal: bool,
    window: int = 0,
    scale: float | None = None,
) -> Float[Array, "b t n h"]:
    """The result in query's dtype.

    Args:
      query: [b t n h].
      key: [b t k h]; head i of the query reads key-value head i // (n / k).
      value: [b t k h].
      causal: a query sees only keys whose place is not after its own.
      window: of those only the last so many, itself included; 0 for all.
      scale: factor of the logits; None for 1 / sqrt(h).
    """
    before = (window - 1, 0) if window else None
    return jax.nn.dot_product_attention(
        query, key, value, scale=scale, is_causal=causal, local_window_size=before, implementation="cudnn"
    )
