"""Where a model's parameters shall lie: their shapes and shardings before any array exists, and buffers to fill.

Canonical or scanned, a leaf is filled layer by layer: a `Slot` says which part of which leaf a canonical path is.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, SingleDeviceSharding

from arch import tree
from arch.layers import weight
from arch.sharding import mesh as meshes

ALIGNMENT = 64
"""Bytes. A host buffer that starts at a multiple becomes a CPU array without a copy."""


def canonical(model_cfg: Any, mesh: Mesh | None = None, dtype: str = "float32") -> tree.Tree:
    """The `jax.ShapeDtypeStruct`s of a model's parameters in canonical form, placed.

    Args:
      model_cfg: of the model.
      mesh: where the sharding rules place them; None for this process's first device.
      dtype: of all parameters.
    """
    place = SingleDeviceSharding(jax.local_devices()[0])

    def abstract(box):
        shape = box.value.shape
        axes = box.axes[len(box.axes) - len(shape) :]  # without the scan's, which `unstack` took away
        where = place if mesh is None else meshes.sharding(axes, shape, mesh)
        return jax.ShapeDtypeStruct(shape, np.dtype(dtype), sharding=where)

    return jax.tree.map(abstract, _boxed(model_cfg), is_leaf=lambda leaf: isinstance(leaf, weight.Weight))


@functools.lru_cache(maxsize=1)
def _boxed(model_cfg: Any) -> tree.Tree:
    """The boxes of a model's weights, shapes for values, in canonical form. Tracing a model takes a second."""

    def init():
        tokens = jnp.zeros((1, 1), jnp.int32)
        return tree.unstack(model_cfg.make().init(jax.random.key(0), tokens)["params"])

    return jax.eval_shape(init)


@dataclasses.dataclass(frozen=True)
class Slot:
    """The part `index` of the leaf at `path`."""

    path: str
    shape: tuple[int, ...]
    index: tuple[int, ...] = ()

    def __getitem__(self, number: int) -> "Slot":
        return Slot(self.path, self.shape[1:], (*self.index, number))


def slots(params: Mapping) -> dict[str, Slot]:
    """Each canonical path of a model, and the part of a leaf of `params` (canonical or scanned) that stands for it."""
    return tree.paths(tree.unstack(tree.map_with_path(lambda path, leaf: Slot(path, tuple(leaf.shape)), params)))


class Buffer:
    """A leaf that is being filled: on the host, one array for each part that this process's devices hold."""

    def __init__(self, leaf: jax.ShapeDtypeStruct):
        self._leaf, self._parts = leaf, {}
        for index in leaf.sharding.addressable_devices_indices_map(leaf.shape).values():
            bounds = _bounds(index, leaf.shape)
            if bounds not in self._parts:
                self._parts[bounds] = _empty([stop - start for start, stop in bounds], leaf.dtype)

    def fill(self, index: tuple, value: np.ndarray) -> None:
        """`leaf[index] = value`, where `index` has numbers and whole slices; each part takes what it holds of it."""
        index = index + (slice(None),) * (len(self._leaf.shape) - len(index))
        for bounds, part in self._parts.items():
            whole = [(i, b) for i, b in zip(index, bounds) if not isinstance(i, int)]
            if all(start <= i < stop for i, (start, stop) in zip(index, bounds) if isinstance(i, int)):
                local = tuple(i - start if isinstance(i, int) else i for i, (start, _) in zip(index, bounds))
                part[local] = value[tuple(slice(*b) for _, b in whole)]

    def array(self) -> jax.Array:
        """The leaf, placed."""
        leaf = self._leaf
        return jax.make_array_from_callback(
            leaf.shape, leaf.sharding, lambda index: self._parts[_bounds(index, leaf.shape)], dtype=leaf.dtype
        )


def _bounds(index: tuple[slice, ...], shape: tuple[int, ...]) -> tuple[tuple[int, int], ...]:
    return tuple(part.indices(size)[:2] for part, size in zip(index, shape, strict=True))


def _empty(shape: list[int], dtype: Any) -> np.ndarray:
    """An uninitialised array that starts at a multiple of ALIGNMENT."""
    size = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
    raw = np.empty(size + ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % ALIGNMENT
    return raw[start : start + size].view(dtype).reshape(shape)
