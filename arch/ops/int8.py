"""Experts' weights as 8 bit integers, with a scale for each expert and output channel; for inference.

    q_edf = round(w_edf / s_ef),   s_ef = max_d |w_edf| / 127,   w ~ q s

An entry is off by at most half its channel's scale: absmax rounding with a scale a vector, as in Dettmers et al.,
LLM.int8(), 2022, arXiv 2208.07339, sec. 3.1, but of the weights alone.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax.tree_util import register_dataclass

from arch.typing import Array, Float


@register_dataclass
@dataclasses.dataclass(frozen=True)
class Int8:
    """Weights [e d f], in place of an array of them.

    Attributes:
      values: [e d f] int8.
      scales: [e 1 f] float32.
    """

    values: Any
    scales: Any

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the weights."""
        return self.values.shape

    def astype(self, dtype) -> "Int8":
        """Itself: it takes the type of what it multiplies."""
        return self

    def dequantized(self, dtype) -> Float[Array, "*e d f"]:
        """The weights, rounded."""
        return (self.values * self.scales).astype(dtype)


def quantized(weight: Float[Array, "*e d f"]) -> Int8:
    """The weights as int8; a channel of zeros stays zeros."""
    largest = jnp.max(jnp.abs(weight.astype(jnp.float32)), axis=-2, keepdims=True)
    scales = jnp.where(largest > 0, largest, 127) / 127
    return Int8(jnp.round(weight / scales).astype(jnp.int8), scales)


def dequantized(weight: Array | Int8, dtype) -> Array:
    """An array of weights in this type, whichever it is."""
    return weight.dequantized(dtype) if isinstance(weight, Int8) else weight.astype(dtype)


def quantize_experts(params: dict) -> dict:
    """Parameters in canonical form, those of experts (`gate`, `up` and `down` of a mixture, [e d f]) as Int8.

    A model takes them where it took the parameters, and generates with them; gradients by them there are none.
    """

    def leaf(path, value):
        expert = getattr(path[-1], "key", None) in ("gate", "up", "down") and value.ndim == 3
        return quantized(value) if expert else value

    return jax.tree_util.tree_map_with_path(leaf, params)
