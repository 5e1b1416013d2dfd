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

    arrays, structure = jax.tree.flatten(tuple(arguments))
    specs = _specs(arguments, axes, mesh)
    parts = [part for spec in specs for part in spec if part]
    split = {name for part in parts for name in ((part,) if isinstance(part, str) else part)}
    partial = tuple(name for name in meshes.RULES[reduce] if name in split)

    def local(*shards):
        result = function(*structure.unflatten(shards))
        return jax.lax.psum(result, partial) if partial else result

    specs = dict(in_specs=specs, out_specs=meshes.spec(out_axes, arguments[0].shape, mesh))
    return _mapped(local, mesh, specs)(*arrays)


def each_shard(
    function: Callable,
    arguments: Sequence[Any],
    axes: Sequence[Axes],
    out_axes: Sequence[Axes],
    *,
    like: Callable | None = None,
):
    """`function(*arguments)` on each shard, where each has results of its own.

    Args:
      function: takes the local arrays, returns a tuple of arrays, or trees of them.
      arguments: global arrays, or trees of them.
      axes: for each argument the logical axes along which its arrays are split; other dimensions are gathered.
      out_axes: the same for each result.
      like: a function of whole arrays with results of this form, where shards exchange something within `function`.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return function(*arguments)
    arrays, structure = jax.tree.flatten(tuple(arguments))
    results = jax.eval_shape(like or function, *arguments)
    local = lambda *shards: tuple(jax.tree.leaves(function(*structure.unflatten(shards))))
    specs = dict(in_specs=_specs(arguments, axes, mesh), out_specs=_specs(results, out_axes, mesh))
    return jax.tree.unflatten(jax.tree.structure(results), _mapped(local, mesh, specs)(*arrays))


def _mapped(local: Callable, mesh, specs: dict) -> Callable:
    """On each shard, along all axes that are not Manual already: a stage of a pipeline is one shard of `stage`."""
    return jax.shard_map(local, mesh=mesh, axis_names=set(meshes.auto_axes(mesh)), check_vma=False, **specs)


def _specs(trees, axes, mesh):
    """Where each array of each tree lies, one after the other."""
    each = [(names, array) for names, tree in zip(axes, trees, strict=True) for array in jax.tree.leaves(tree)]
    return tuple(meshes.spec(names, array.shape, mesh) for names, array in each)
