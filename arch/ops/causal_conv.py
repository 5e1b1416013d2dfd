"""Depthwise causal convolution: y_t = bias + sum_j weight_j * x_{t - (w - 1) + j}, each channel by itself.

Source: the short convolution before Mamba's scan, Gu & Dao 2023, "Mamba: Linear-Time Sequence Modeling with Selective
State Spaces" (arXiv 2312.00752, sec. 3.4); the last tap, weight_{w-1}, meets the present token.
"""

import jax
import jax.numpy as jnp

from arch.typing import Array, Bool, Float, Int


def causal_conv(
    x: Float[Array, "b t f"],
    weight: Float[Array, "w f"],
    bias: Float[Array, "f"],
    *,
    tail: Float[Array, "b w-1 f"] | None = None,
    segment_ids: Int[Array, "b t"] | None = None,
    valid: Bool[Array, "b t"] | None = None,
) -> tuple[Float[Array, "b t f"], Float[Array, "b w-1 f"]]:
    """Convolves along time, each output seeing its own token and the w-1 before it.

    Args:
        x: inputs.
        weight: taps from the oldest token to the present one.
        bias: added to each output.
        tail: the w-1 inputs before x[:, 0]; None is a sequence that starts here, zeros.
        segment_ids: tokens see only tokens of their own segment. A row's tail belongs to its first segment.
        valid: which tokens are real; the real ones of a row come first (right padding), None is all. Outputs at the
            others are of no meaning.

    Returns:
        y in x.dtype (products and sums in float32 or wider), and the new tail: the last w-1 valid inputs of each row,
        the old tail's included, in x.dtype.
    """
    width, (batch, length, channels) = weight.shape[0], x.shape
    if tail is None:
        tail = jnp.zeros((batch, width - 1, channels), x.dtype)
    inputs = jnp.concatenate([tail.astype(x.dtype), x], axis=1)
    dtype = jnp.promote_types(jnp.result_type(x, weight, bias), jnp.float32)
    y = jnp.broadcast_to(bias.astype(dtype), x.shape)
    if segment_ids is not None:
        segments = jnp.pad(segment_ids, ((0, 0), (width - 1, 0)), mode="edge")
    for tap in range(width):
        product = inputs[:, tap : tap + length].astype(dtype) * weight[tap].astype(dtype)
        if segment_ids is not None and tap < width - 1:
            product = jnp.where((segments[:, tap : tap + length] == segment_ids)[..., None], product, 0)
        y += product
    return y.astype(x.dtype), last_valid(inputs, valid, width - 1)


def last_valid(inputs: Float[Array, "b s f"], valid: Bool[Array, "b t"] | None, count: int) -> Float[Array, "b c f"]:
    """The `count` inputs that end at each row's last valid one."""
    if valid is None:
        return inputs[:, inputs.shape[1] - count :]
    slice_row = lambda row, start: jax.lax.dynamic_slice_in_dim(row, start, count)
    return jax.vmap(slice_row)(inputs, jnp.sum(valid, axis=1, dtype=jnp.int32))
