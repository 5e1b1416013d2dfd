"""What each device reads and writes of an array in a memory-mapped file, from inside a compiled program."""

import math
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import io_callback
from jax.sharding import PartitionSpec

from arch.sharding import mesh as meshes
from arch.train.state import axes_of


def place(name: str, leaf: jax.ShapeDtypeStruct, axes: Mapping[str, tuple[str, ...]]) -> PartitionSpec:
    """Where the array of a path in the optimizer's state lies: as the parameter whose path ends it, else whole."""
    mesh, names = jax.sharding.get_abstract_mesh(), axes_of(name, leaf.ndim, axes)
    whole = mesh.empty or names is None
    return PartitionSpec(*[None] * leaf.ndim) if whole else meshes.spec(names, leaf.shape, mesh)


class Part:
    """What each device reads and writes of an array.

    Args:
      leaf: the whole array.
      spec: where it lies on the mesh.
    """

    def __init__(self, leaf: jax.ShapeDtypeStruct, spec: PartitionSpec):
        sizes = dict(jax.sharding.get_abstract_mesh().shape)
        axes = [part if isinstance(part, tuple) else (part,) if part else () for part in spec]
        self._spec, self._axes = spec, [[(axis, sizes[axis]) for axis in names] for names in axes]
        shape = [size // math.prod(size for _, size in names) for size, names in zip(leaf.shape, self._axes)]
        self._local = jax.ShapeDtypeStruct(shape, leaf.dtype)
        used = {axis for names in self._axes for axis, _ in names}
        self._copies = tuple(axis for axis, size in sizes.items() if size > 1 and axis not in used)

    def read(self, file: Callable[[], np.ndarray], turn, after):
        """The array, once `turn` and `after` are known."""

        def read(first, starts, *_):
            return np.array(file()[self._slices(starts)]) if first else np.zeros(self._local.shape, self._local.dtype)

        def of_device(turn, after):
            return self._of_all(io_callback(read, self._local, self._is_first(), self._starts(), turn, after))

        return self._on_each(of_device, (PartitionSpec(), PartitionSpec()), self._spec)(turn, after)

    def write(self, file: Callable[[], np.ndarray], turn, taken, array):
        """Writes the array if the step is taken, and gives the next turn when that is done."""

        def write(turn, here, starts, values):
            if here:
                file()[self._slices(starts)] = values
            return np.int32(turn + 1)

        def of_device(turn, taken, values):
            here = taken & self._is_first()
            return io_callback(write, jax.ShapeDtypeStruct((), jnp.int32), turn, here, self._starts(), values)

        return self._on_each(of_device, (PartitionSpec(), PartitionSpec(), self._spec), PartitionSpec())(
            turn, taken, array
        )

    def _on_each(self, function, in_specs, out_specs):
        mesh = jax.sharding.get_abstract_mesh()
        if mesh.empty:
            return function
        return jax.shard_map(function, mesh=mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False)

    def _is_first(self):
        """[] whether this device reads and writes for those with the same part."""
        return jnp.all(jnp.array([jax.lax.axis_index(axis) == 0 for axis in self._copies] or True))

    def _of_all(self, part):
        """What the first device has, zeros on the others, on all."""
        return jax.lax.psum(part, self._copies) if self._copies else part

    def _starts(self):
        """[rank] int32, where this device's part begins."""
        starts = [jnp.int32(0)] * len(self._axes)
        for i, names in enumerate(self._axes):
            for axis, size in names:
                starts[i] = starts[i] * size + jax.lax.axis_index(axis)
        return jnp.stack([start * size for start, size in zip(starts, self._local.shape)])

    def _slices(self, starts) -> tuple[slice, ...]:
        return tuple(slice(int(start), int(start) + size) for start, size in zip(starts, self._local.shape))
