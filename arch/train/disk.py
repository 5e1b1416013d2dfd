"""The optimizer's means in files on this machine's disk, memory-mapped: read for the update of a weight, written back.

    WORKDIR/optimizer/<path in the optimizer's state>      the bytes of an array

A device holds the means of one weight at a time, and the host none that its system does not cache. The files are this
process's alone, and nothing reads them behind its end: a checkpoint holds the means as it does without files, and a
process that goes on from it writes its files anew. Each device reads and writes its own part of an array; of devices
that hold the same part the first one does, for all.
"""

import pathlib
import shutil
import threading
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from arch import tree
from arch.train.mapped import Part, place
from arch.train.restore import flatten


class DiskState(NamedTuple):
    """The state of an optimizer whose means are in files.

    Attributes:
      turn: [] int32, of the last write: whoever knows it may read.
      rest: the optimizer's own state, None in place of each array of a file.
    """

    turn: Any
    rest: Any


class Disk:
    """The files of one process.

    Args:
      folder: for them; what it holds is removed before the first is made.
    """

    def __init__(self, folder: pathlib.Path):
        self._folder, self._axes, self._shapes, self._files = folder, dict, {}, {}
        self._lock = threading.Lock()

    def keep(
        self, one: optax.GradientTransformation, axes: Callable[[], Mapping[str, tuple[str, ...]]]
    ) -> optax.GradientTransformation:
        """A transformation whose arrays are in the files; it must treat each weight by itself, and begin with zeros.

        Args:
          one: the transformation.
          axes: gives the logical axes of each parameter by path, by which its means lie on the mesh.
        """

        self._axes = axes

        def init(params):
            state = one.init(params)
            self._shapes = {name: leaf for name, leaf in flatten(jax.eval_shape(one.init, params)).items() if leaf.ndim}
            return DiskState(jnp.int32(0), jax.tree.map(lambda leaf: None if leaf.ndim else leaf, state))

        def update(gradients, state, params, *, taken=True, **_):
            kept, turn, taken = flatten(state.rest), state.turn, jnp.asarray(taken)
            parts = {name: Part(leaf, place(name, leaf, axes())) for name, leaf in self._shapes.items()}

            def fetch(name, after):
                return parts[name].read(self._file(name), turn, after)

            def put(name, mean):
                return None, parts[name].write(self._file(name), turn, taken, mean)

            updates, new, turn = _weight_by_weight(one, gradients, kept, params, taken, fetch=fetch, put=put)
            rest = jax.tree.unflatten(jax.tree.structure(state.rest), [new[name] for name in kept])
            return updates, DiskState(turn, rest)

        return optax.GradientTransformationExtraArgs(init, update)

    def whole(self, opt_state: Any) -> Any:
        """An optimizer's state as it is without files, their arrays memory-mapped. Waits for the last write."""

        def filled(state):
            jax.block_until_ready(state.turn)
            leaves, structure = jax.tree.flatten(state.rest, is_leaf=lambda leaf: leaf is None)
            names = iter(in_files(state.rest))
            whole = [np.asarray(self._file(next(names))()) if leaf is None else leaf for leaf in leaves]
            return jax.tree.unflatten(structure, whole)

        return _in_place(filled, opt_state)

    def load(self, opt_state: Any, read: Callable[[str, jax.ShapeDtypeStruct], jax.Array]) -> None:
        """Fills the files, one at a time.

        Args:
          opt_state: what `bare` gives of the state.
          read: gives the array at a path of it, with this shape and sharding.
        """
        mesh, axes = jax.sharding.get_mesh(), self._axes()
        for path in in_files(opt_state):
            name = next(name for name in self._shapes if path == name or path.endswith(f"/{name}"))
            leaf, file = self._shapes[name], self._file(name)()
            where = jax.sharding.NamedSharding(mesh, place(name, leaf, axes))
            for shard in read(path, jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where)).addressable_shards:
                file[shard.index] = np.asarray(shard.data)

    def _file(self, name: str) -> Callable[[], np.memmap]:
        """Opens a file; makes it, of zeros, if it is not there."""

        def opened():
            with self._lock:  # each device asks from a thread of its own
                if not self._files:
                    shutil.rmtree(self._folder, ignore_errors=True)
                if name not in self._files:
                    file, leaf = self._folder / name, self._shapes[name]
                    file.parent.mkdir(parents=True, exist_ok=True)
                    self._files[name] = np.memmap(file, leaf.dtype, "w+", shape=leaf.shape)
                return self._files[name]

        return opened


def _weight_by_weight(
    one: optax.GradientTransformation,
    gradients: tree.Tree,
    kept: dict[str, Any],
    params: tree.Tree,
    taken: jax.Array,
    *,
    fetch: Callable[[str, Any], Any],
    put: Callable[[str, Any], tuple[Any, Any]],
) -> tuple[tree.Tree, dict[str, Any], Any]:
    """An update of each weight by itself.

    Args:
      one: the transformation.
      gradients, params: of all weights.
      kept: numbers in the transformation's state, by path.
      taken: [] whether the step is; else each mean stays what it is.
      fetch: gives the array at a path of the state, once a value that it is given is there.
      put: takes what the array is now; gives what the state holds of it, and a value that is there when it is done.

    Returns:
      The updates, the state by path, and the last such value.
    """
    weights, updates, new, after = tree.paths(params), {}, {}, taken
    for path, gradient in tree.paths(gradients).items():
        weight = tree.from_paths({path: weights[path]})
        shapes = jax.eval_shape(one.init, weight)
        old = {name: fetch(name, after) if leaf.ndim else kept[name] for name, leaf in flatten(shapes).items()}
        state = jax.tree.unflatten(jax.tree.structure(shapes), old.values())
        update, state = one.update(tree.from_paths({path: gradient}), state, weight)
        updates |= tree.paths(update)
        for name, leaf in flatten(state).items():
            new[name] = jnp.where(taken, leaf, old[name])
            if leaf.ndim:
                new[name], after = put(name, new[name])
    return tree.from_paths(updates), new, after


def bare(opt_state: Any) -> Any:
    """An optimizer's state as it is without files, None in place of what is in them."""
    return _in_place(lambda state: state.rest, opt_state)


def begun(like: Any, opt_state: Any) -> Any:
    """What `bare` gives of a state like `like`, as such a state again, before its first turn."""
    turn = lambda state, bare: DiskState(jnp.int32(0), bare) if _is_state(state) else bare
    return jax.tree.map(turn, like, opt_state, is_leaf=_is_state)


def in_files(state: Any) -> list[str]:
    """The paths of what is in files in anything that holds what `bare` gives."""
    leaves = jax.tree_util.tree_leaves_with_path(state, is_leaf=lambda leaf: leaf is None)
    return [jax.tree_util.keystr(path, simple=True, separator="/") for path, leaf in leaves if leaf is None]


def _in_place(function: Callable[[DiskState], Any], opt_state: Any) -> Any:
    return jax.tree.map(lambda leaf: function(leaf) if _is_state(leaf) else leaf, opt_state, is_leaf=_is_state)


def _is_state(leaf: Any) -> bool:
    return isinstance(leaf, DiskState)
