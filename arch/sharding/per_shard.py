"""The one wrapper under which code that the compiler cannot partition runs shard by shard.

Kernels and sorts see only their own rows: `per_shard` calls a function inside `jax.shard_map` on the mesh that
`jax.set_mesh` set, with shardings from the logical-axis rules, and calls it directly when there is no mesh.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax

from arch.sharding import mesh as meshes

Axes = Sequence[str | None]


def per_shard(function: Callable, arguments: Sequence[Any], axes: Sequence[Axes], out_axes: Axes, *, reduce: str):
    """`function(*arguments)` on each shard.

    Args:
      function: takes the local arrays, returns one array whose dimensions are whole, or split as `out_axes` say.
      arguments: global arrays, or trees of them; the first is one array.
      axes: for each argument the logical axes along which its arrays are split; other dimensions are gathered.
      out_axes: the logical axes of the result; its leading dimensions are those of `arguments[0]`.
      reduce: a logical axis whose shards hold partial sums of the result: they are summed.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return function(*arguments)

    specs = _specs(arguments, axes, mesh)
    parts = [part for spec in jax.tree.leaves(specs, is_leaf=_is_spec) for part in spec if part]
    split = {name for part in parts for name in ((part,) if isinstance(part, str) else part)}
    partial = tuple(name for name in meshes.RULES[reduce] if name in split)

    def local(*shards):
        result = function(*shards)
        return jax.lax.psum(result, partial) if partial else result

    out_spec = meshes.spec(out_axes, arguments[0].shape, mesh)
    return jax.shard_map(local, mesh=mesh, in_specs=specs, out_specs=out_spec, check_vma=False)(*arguments)


def each_shard(function: Callable, arguments: Sequence[Any], axes: Sequence[Axes], out_axes: Sequence[Axes]):
    """`function(*arguments)` on each shard, where each has results of its own.

    Args:
      function: takes the local arrays, returns a tuple of arrays, or trees of them.
      arguments: global arrays, or trees of them.
      axes: for each argument the logical axes along which its arrays are split; other dimensions are gathered.
      out_axes: the same for each result.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return function(*arguments)
    specs = _specs(arguments, axes, mesh)
    out_specs = _specs(jax.eval_shape(function, *arguments), out_axes, mesh)
    return jax.shard_map(function, mesh=mesh, in_specs=specs, out_specs=out_specs, check_vma=False)(*arguments)


def _specs(arguments, axes, mesh):
    """Where each array of each argument lies, as a tuple of trees like them."""
    place = lambda names, argument: jax.tree.map(lambda array: meshes.spec(names, array.shape, mesh), argument)
    return tuple(place(names, argument) for names, argument in zip(axes, arguments, strict=True))


def _is_spec(x):
    return isinstance(x, jax.sharding.PartitionSpec)
