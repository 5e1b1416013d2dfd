"""Attention with linear biases: each head's logits fall with the distance of query and key, at a slope of its own.

    bias_n(i, j) = -slope_n |i - j|,      slope_n = 2^(-8 n / N)  for heads n = 1 ... N

Press, Smith, Lewis, Train Short, Test Long: Attention with Linear Biases Enables Input Length Extrapolation, 2021,
arXiv 2108.12409, sec. 3. Where N is no power of two, the released code takes the slopes of the next smaller power, then
every second one of the next larger. The absolute value serves attention that looks ahead.
"""

import jax.numpy as jnp
import numpy as np

from arch.typing import Array, Float, Int


def slopes(num_heads: int) -> np.ndarray:
    """[num_heads] the slopes of the paper's released code."""
    power = 1 << (num_heads.bit_length() - 1)
    geometric = lambda heads: 2.0 ** (-8 * np.arange(1, heads + 1) / heads)
    return np.concatenate([geometric(power), geometric(2 * power)[0::2][: num_heads - power]])


def bias(
    slopes: Float[Array, "n"], query_place: Int[Array, "#b t"], key_place: Int[Array, "#b s"]
) -> Float[Array, "#b n t s"]:
    """[b n t s] what is added to the logits, in float32."""
    distance = jnp.abs(query_place[:, None, :, None] - key_place[:, None, None, :]).astype(jnp.float32)
    return -slopes[:, None, None] * distance
