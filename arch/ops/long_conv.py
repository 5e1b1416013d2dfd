"""Causal convolution with a filter as long as the row: y_t = sum_{s<=t} filter_{t-s} x_s, each channel by itself.

Source: the convolution theorem on rows padded with as many zeros, as in Poli et al. 2023, "Hyena Hierarchy: Towards
Larger Convolutional Language Models" (arXiv 2302.10866, sec. 2.1). It has no state of fixed size: what comes next needs
all inputs that came before, O(t) of memory and of time a token.
"""

from typing import Literal

import jax.numpy as jnp

from arch.typing import Array, Float, Int

Implementation = Literal["fft", "direct"]


def long_conv(
    x: Float[Array, "b t f"], filter: Float[Array, "t f"], *, implementation: Implementation = "fft"
) -> Float[Array, "b t f"]:
    """The convolution of whole rows.

    Args:
      x: inputs.
      filter: its value at each lag, from 0.
      implementation: 'fft' takes O(t log t) operations; 'direct' is the sum as written, O(t^2), with a [t t f] array.

    Returns:
      y in x.dtype; all arithmetic is in float32 (float64 if an argument is).
    """
    length, dtype = x.shape[1], jnp.promote_types(jnp.result_type(x, filter), jnp.float32)
    wide, taps = x.astype(dtype), filter.astype(dtype)
    if implementation == "direct":
        lag = jnp.arange(length)[:, None] - jnp.arange(length)
        weights = jnp.where((lag >= 0)[..., None], taps[lag], 0)
        return jnp.einsum("tsf,bsf->btf", weights, wide).astype(x.dtype)
    size = transform_size(length)
    spectrum = jnp.fft.rfft(wide, size, axis=1) * jnp.fft.rfft(taps, size, axis=0)
    return jnp.fft.irfft(spectrum, size, axis=1)[:, :length].astype(x.dtype)


def transform_size(length: int) -> int:
    """Points of the transforms of a row of so many tokens: a power of two, no output of which wraps around."""
    return 1 << max(2 * length - 2, 0).bit_length()


def transform_multiply_adds(length: int) -> int:
    """Multiply-adds of one transform, as XLA counts them: 4 n log2 n for n points."""
    size = transform_size(length)
    return 4 * size * (size.bit_length() - 1)


def long_conv_at(
    inputs: Float[Array, "b s f"], filter: Float[Array, "s f"], place: Int[Array, "b t"]
) -> Float[Array, "b t f"]:
    """The outputs at some places of rows that are kept: directly at one place a row, by a transform of all at several.

    Args:
      inputs: of all tokens so far; what stands behind a row's last place is not read.
      filter: its value at each lag, from 0.
      place: whose outputs are wanted; those past the row are of no meaning.
    """
    if place.shape[1] > 1:
        return jnp.take_along_axis(long_conv(inputs, filter), place[..., None], axis=1, mode="clip")
    dtype = jnp.promote_types(jnp.result_type(inputs, filter), jnp.float32)
    lag = place - jnp.arange(inputs.shape[1])
    weights = jnp.where((lag >= 0)[..., None], filter.astype(dtype)[jnp.maximum(lag, 0)], 0)
    return jnp.sum(weights * inputs.astype(dtype), axis=1, keepdims=True).astype(inputs.dtype)
