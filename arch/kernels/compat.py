"""Pallas as this package uses it: the one file that knows where it lies and since when it works.

Pallas' Mosaic GPU names change with JAX's releases. Nothing is imported from it before a kernel is asked for, so that
`import arch` works with every JAX that setup.cfg allows; kernels need MINIMUM.
"""

import types

import jax

MINIMUM = (0, 11, 0)
"""The first JAX whose Mosaic GPU has what the kernels use: layouts inferred for a warpgroup, transposed references."""
INTERPRETER = (0, 11, 2)
"""The first JAX with a public interpreter of Mosaic GPU kernels on CPU."""


def available() -> bool:
    """Whether this JAX has what the kernels use."""
    return jax.__version_info__ >= MINIMUM


def modules() -> tuple[types.ModuleType, types.ModuleType]:
    """(pallas, pallas.mosaic_gpu).

    Raises:
      NotImplementedError: this JAX is too old.
    """
    if not available():
        found, wanted = jax.__version__, ".".join(map(str, MINIMUM))
        raise NotImplementedError(f"Mosaic GPU kernels need JAX {wanted} or newer; this is JAX {found}")
    from jax.experimental import pallas
    from jax.experimental.pallas import mosaic_gpu

    return pallas, mosaic_gpu


def tpu() -> tuple[types.ModuleType, types.ModuleType]:
    """(pallas, pallas.tpu), which every JAX that setup.cfg allows has."""
    from jax.experimental import pallas
    from jax.experimental.pallas import tpu as pltpu

    return pallas, pltpu
