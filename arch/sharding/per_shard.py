"""The one wrapper under which code that the compiler cannot partition runs shard by shard.

Kernels and sorts see only their own rows: `per_shard` calls a function inside `jax.shard_map` on the mesh that
`jax.set_mesh` set, with shardings from the logical-axis rules, and calls it directly when there is no mesh.
"""

from collections.abc import Callable, Sequence

import jax

from arch.sharding import mesh as meshes

Axes = Sequence[str | None]


def per_shard(function: Callable, arrays: Sequence[jax.Array], axes: Sequence[Axes], out_axes: Axes, *, reduce: str):
    """`function(*arrays)` on each shard.

    Args:
      function: takes the local arrays, returns one array whose dimensions are whole, or split as `out_axes` say.
      arrays: the global arrays.
      axes: for each array the logical axes along which it is split; other dimensions are gathered.
      out_axes: the logical axes of the result; its leading dimensions are those of `arrays[0]`.
      reduce: a logical axis whose shards hold partial sums of the result: they are summed.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return function(*arrays)
    specs = tuple(meshes.spec(names, array.shape, mesh) for names, array in zip(axes, arrays, strict=True))
    split = {name for spec in specs for part in spec if part for name in ((part,) if isinstance(part, str) else part)}
    partial = tuple(name for name in meshes.RULES[reduce] if name in split)

    def local(*shards):
        result = function(*shards)
        return jax.lax.psum(result, partial) if partial else result

    out_spec = meshes.spec(out_axes, arrays[0].shape, mesh)
    return jax.shard_map(local, mesh=mesh, in_specs=specs, out_specs=out_spec, check_vma=False)(*arrays)
