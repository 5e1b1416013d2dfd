"""Grouped matrix products of other packages, none of which is needed: imported when asked for, or an error says so."""

import importlib.metadata

import jax.numpy as jnp

from arch.typing import Array, Float, Int

VERSIONS = {"tokamax": "0.0.17", "jax-linear-attention": "0.1.0"}
"""Those whose calls below are known to work, with JAX 0.11.2: both change from release to release."""


def tokamax(
    x: Float[Array, "m d"], weight: Float[Array, "e d f"], group_sizes: Int[Array, "e"], *, device_kind: str
) -> Float[Array, "m f"]:
    """By tokamax: its Mosaic kernels on NVIDIA's GPUs and on TPUs, its plain `ragged_dot` elsewhere."""
    require("tokamax")
    import tokamax

    kinds = {"NVIDIA": "mosaic_gpu", "TPU": "mosaic"}
    implementation = next((name for start, name in kinds.items() if device_kind.startswith(start)), "xla")
    x = _of_groups(x, group_sizes)
    y = tokamax.ragged_dot(x, weight, group_sizes, implementation=implementation, preferred_element_type=x.dtype)
    return _of_groups(y, group_sizes)


def jax_linear_attention(
    x: Float[Array, "m d"], weight: Float[Array, "e d f"], group_sizes: Int[Array, "e"]
) -> Float[Array, "m f"]:
    """By jax-linear-attention's Hopper kernels; it refuses what they do not take, and where JAX runs on none."""
    require("jax-linear-attention")
    from jla.ops.mosaic_gpu import ragged_dot

    return ragged_dot.ragged_dot(x, weight, group_sizes)


def _of_groups(rows, group_sizes):
    """With zeros behind the last group, also in the gradient: peers leave there what they find."""
    return jnp.where(jnp.arange(len(rows))[:, None] < jnp.sum(group_sizes), rows, 0)


def require(package):
    """Raises ImportError where the package is absent or another version."""
    wanted = VERSIONS[package]
    try:
        found = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        found = "not installed"
    if found != wanted:
        raise ImportError(f"needs the package {package}, version {wanted} ({found}): pip install {package}=={wanted}")
