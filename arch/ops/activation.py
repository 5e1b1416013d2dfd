"""The activation functions a config may name.

The backward pass computes them again from their input, which a sublayer keeps anyway: the tanh GELU alone has three
other intermediates of its size.
"""

from collections.abc import Callable
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp

Activation = Literal["relu", "relu_squared", "gelu", "gelu_tanh", "gelu_sigmoid", "silu", "sigmoid", "tanh"]
"""gelu is exact (Hendrycks, Gimpel, 2016, arXiv 1606.08415); gelu_tanh its tanh form (GPT-2), gelu_sigmoid its sigmoid
form (Sparse Transformer, CLIP); silu is swish with beta 1; relu_squared is Primer's (So et al., 2021, arXiv
2109.08668)."""

_FUNCTIONS: dict[str, Callable] = {
    "relu": jax.nn.relu,
    "relu_squared": lambda x: jnp.square(jax.nn.relu(x)),
    "gelu": partial(jax.nn.gelu, approximate=False),
    "gelu_tanh": partial(jax.nn.gelu, approximate=True),
    "gelu_sigmoid": lambda x: x * jax.nn.sigmoid(1.702 * x),
    "silu": jax.nn.silu,
    "sigmoid": jax.nn.sigmoid,
    "tanh": jnp.tanh,
}

ACTIVATIONS = {name: jax.checkpoint(function, prevent_cse=False) for name, function in _FUNCTIONS.items()}
