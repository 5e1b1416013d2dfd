"""The activation functions a config may name."""

from collections.abc import Callable
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp

Activation = Literal["relu", "relu_squared", "gelu", "gelu_tanh", "silu", "sigmoid", "tanh"]
"""gelu is exact (Hendrycks, Gimpel, 2016, arXiv 1606.08415); gelu_tanh its tanh form (GPT-2); silu is swish with beta 1;
relu_squared is Primer's (So et al., 2021, arXiv 2109.08668)."""

ACTIVATIONS: dict[str, Callable] = {
    "relu": jax.nn.relu,
    "relu_squared": lambda x: jnp.square(jax.nn.relu(x)),
    "gelu": partial(jax.nn.gelu, approximate=False),
    "gelu_tanh": partial(jax.nn.gelu, approximate=True),
    "silu": jax.nn.silu,
    "sigmoid": jax.nn.sigmoid,
    "tanh": jnp.tanh,
}
