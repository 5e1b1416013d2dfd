"""Device meshes with the axes (data, stage, fsdp, expert, context, tensor), and what places logical axes on them.

`data` replicates weights and splits the batch; `stage` splits the repeated layers of stacks (`arch.sharding.pipeline`),
and is one more `fsdp` to the batch and to all other weights; `fsdp` splits the batch and every weight (ZeRO-3);
`expert` splits the experts of a mixture, and is one more `fsdp` likewise; `context` splits the tokens of each row, in
order, and is one more `fsdp` to weights (`arch.sharding.context`); `tensor` splits heads, hidden channels and
vocabulary. Weights and activations name logical axes; `RULES` is the only place that maps them to mesh axes. All axes
are Auto: the compiler propagates, our constraints steer. Inside `shard_map` its axes are Manual, and place nothing.
"""

import math
from collections.abc import Sequence

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from arch import config

AXES = ("data", "stage", "fsdp", "expert", "context", "tensor")

RULES: dict[str, tuple[str, ...]] = {
    "batch": ("data", "stage", "fsdp", "expert"),
    "sequence": ("context",),
    "embed": ("stage", "fsdp", "expert", "context"),
    "heads": ("tensor",),
    "kv_heads": ("tensor",),
    "hidden": ("tensor",),
    "vocab": ("tensor",),
    "experts": ("expert",),
    "head_dim": (),
    "state": (),
    "conv": (),
    "rank": (),
    "buckets": (),
    "length": (),
    "labels": (),
    "types": (),
    "layers": ("stage",),
}
"""Logical axis -> the mesh axes that split it. Every axis name of every weight is a key (tests hold that)."""

BATCH_SHARDS = " * ".join(f"mesh.{axis}" for axis in RULES["batch"])
"""How a message names `batch_shards`."""


@config.frozen
class Config(config.Config):
    """Sizes of the mesh axes; -1 (one axis at most) takes the devices that the others leave."""

    data: int = -1
    stage: int = 1
    fsdp: int = 1
    expert: int = 1
    context: int = 1
    tensor: int = 1

    def check(self):
        sizes = {axis: getattr(self, axis) for axis in AXES}
        for axis, size in sizes.items():
            if size < 1 and size != -1:
                raise ValueError(f"{axis}={size} must be at least 1, or -1 for the devices that are left")
        if list(sizes.values()).count(-1) > 1:
            raise ValueError(f"{', '.join(a for a, s in sizes.items() if s == -1)}: only one axis may be -1")


def shape(cfg: Config, num_devices: int) -> tuple[int, ...]:
    """The sizes of AXES on so many devices.

    Raises:
      ValueError: the axes' product is not the number of devices; the message says which overrides would mend it.
    """
    sizes = [getattr(cfg, axis) for axis in AXES]
    known = math.prod(size for size in sizes if size != -1)
    if -1 in sizes and num_devices % known == 0:
        sizes[sizes.index(-1)] = num_devices // known
    if math.prod(sizes) != num_devices:
        text = ", ".join(f"mesh.{axis}={getattr(cfg, axis)}" for axis in AXES)
        changes = " ".join(f"--config.mesh.{axis}={size}" for axis, size in _fitting(cfg, num_devices).items())
        raise ValueError(f"{text} must multiply to the number of devices, {num_devices}: {changes} would")
    return tuple(sizes)


def _fitting(cfg: Config, num_devices: int) -> dict[str, int]:
    """The axes to change for so many devices: the last are kept as far as they divide them, `data` takes the rest."""
    sizes, left = {}, num_devices
    for axis in reversed(AXES):
        sizes[axis] = math.gcd(max(getattr(cfg, axis), 1), left)
        left //= sizes[axis]
    open_axis = next((axis for axis in AXES if getattr(cfg, axis) == -1), None)
    sizes[open_axis or "data"] *= left
    return {axis: sizes[axis] for axis in AXES if axis != open_axis and sizes[axis] != getattr(cfg, axis)}


def make(cfg: Config, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """The mesh over these devices (all, when None), laid out so that `tensor` neighbours are near each other.

    Each axis goes along whole sides of a slice of TPUs; where the sizes do not allow it, axes share a side. Where the
    devices are in several slices, `data` alone goes from one to the next.

    Raises:
      ValueError: the axes' product is not the number of devices, or slices do not divide `data`.
    """
    devices = jax.devices() if devices is None else list(devices)
    sizes = shape(cfg, len(devices))
    slices = len({getattr(device, "slice_index", 0) for device in devices}) if devices[0].platform == "tpu" else 1
    if sizes[0] % slices:
        raise ValueError(f"mesh.data={sizes[0]} must be a multiple of {slices}, the slices that the devices are in")
    if slices > 1:
        inside, between = (sizes[0] // slices, *sizes[1:]), (slices, *[1] * (len(AXES) - 1))
        laid_out = mesh_utils.create_hybrid_device_mesh(inside, between, devices, allow_split_physical_axes=True)
        return Mesh(laid_out, AXES, axis_types=(AxisType.Auto,) * len(AXES))
    types = (AxisType.Auto,) * len(AXES)
    try:
        return jax.make_mesh(sizes, AXES, axis_types=types, devices=devices)
    except NotImplementedError:  # no axis of 32 is a product of sides of 4 x 4 x 4
        laid_out = mesh_utils.create_device_mesh(sizes, devices, allow_split_physical_axes=True)
        return Mesh(laid_out, AXES, axis_types=types)


def abstract(cfg: Config, num_devices: int) -> AbstractMesh:
    """The mesh on so many devices, none of which needs to be here: enough to know where arrays would lie.

    Raises:
      ValueError: the axes' product is not the number of devices.
    """
    return AbstractMesh(shape(cfg, num_devices), AXES, axis_types=(AxisType.Auto,) * len(AXES))


def spec(axes: Sequence[str | None], dims: Sequence[int], mesh) -> PartitionSpec:
    """Where the rules place an array: a dimension that its mesh axes do not divide stays whole.

    Rows that `stage` alone does not divide, as those of a micro-batch may be, are split by the other axes.

    Args:
      axes: the logical name of each dimension, None for one that is never split.
      dims: the sizes of the dimensions.
      mesh: a mesh (or abstract mesh) whose axes are among AXES; those that are Manual split nothing.
    """
    sizes = {name: mesh.shape[name] for name in auto_axes(mesh)}
    taken: set[str] = set()
    parts = []
    for axis, dim in zip(axes, dims, strict=True):
        if axis is not None and axis not in RULES:
            raise ValueError(f"axis {axis!r} has no rule; there are {', '.join(RULES)}")
        names = [name for name in RULES.get(axis, ()) if sizes.get(name, 1) > 1 and name not in taken]
        if axis == "batch" and dim % math.prod(sizes[name] for name in names):
            names = [name for name in names if name != "stage"]
        if names and dim % math.prod(sizes[name] for name in names) == 0:
            taken.update(names)
            parts.append(tuple(names) if len(names) > 1 else names[0])
        else:
            parts.append(None)
    return PartitionSpec(*parts)


def sharding(axes: Sequence[str | None], dims: Sequence[int], mesh: Mesh | AbstractMesh) -> NamedSharding:
    """The rules' `NamedSharding` for an array with these logical axes and sizes."""
    return NamedSharding(mesh, spec(axes, dims, mesh))


def batch_shards(mesh: Mesh | AbstractMesh) -> int:
    """Into how many parts the batch is split."""
    return math.prod(mesh.shape[name] for name in RULES["batch"])


def weight_shards(mesh: Mesh | AbstractMesh) -> int:
    """Into how many parts a weight is split that does not lie along `tensor`."""
    return math.prod(mesh.shape[name] for name in RULES["embed"])


def context_shards(mesh: Mesh | AbstractMesh) -> int:
    """Into how many parts the tokens of a row are split."""
    return math.prod(mesh.shape[name] for name in RULES["sequence"])


def must_split(seq_len: int, mesh: Mesh | AbstractMesh) -> None:
    """Raises ValueError unless rows of so many tokens are split evenly."""
    if seq_len % (parts := context_shards(mesh)):
        raise ValueError(f"seq_len={seq_len} must be a multiple of mesh.context={parts}")


def process_shard(mesh: Mesh, num_rows: int) -> tuple[int, int]:
    """(index, count) of the contiguous rows of the global batch that this process loads.

    Raises:
      ValueError: the batch does not split evenly, or this process's devices hold no contiguous part of it.
    """
    parts = batch_shards(mesh)
    if num_rows % parts:
        raise ValueError(
            f"batch_size={num_rows} must be a multiple of {BATCH_SHARDS} = {parts}, the parts it is split into"
        )
    rows = sharding(("batch",), (num_rows,), mesh).devices_indices_map((num_rows,))
    here = [device for device in mesh.devices.flat if device.process_index == jax.process_index()]
    mine = [rows[device][0].indices(num_rows)[:2] for device in here]
    start, stop = min(begin for begin, _ in mine), max(end for _, end in mine)
    covered = sum(end - begin for begin, end in set(mine))  # parts are the same or apart
    count = stop - start
    if covered != count or num_rows % count or start % count:
        raise ValueError(f"process {jax.process_index()} holds rows {sorted(set(mine))} of the batch: not contiguous")
    return start // count, num_rows // count


def constrain(x: jax.Array, *axes: str | None) -> jax.Array:
    """`x` held to the rules' sharding on the mesh set by `jax.set_mesh`; unchanged when there is none."""
    mesh = jax.sharding.get_abstract_mesh()
    if not auto_axes(mesh):
        return x
    return jax.lax.with_sharding_constraint(x, spec(axes, x.shape, mesh))


def auto_axes(mesh) -> tuple[str, ...]:
    """Those along which the compiler places arrays here: all, but inside `shard_map`."""
    return tuple(name for name, kind in zip(mesh.axis_names, mesh.axis_types) if kind != AxisType.Manual)


def device_kind() -> str:
    """'cpu', 'NVIDIA H200', 'TPU v5p' ...: of the mesh that `jax.set_mesh` set, else of JAX's default device.

    The mesh comes first, since in an ahead-of-time compile the default device is not the one that will run.
    """
    device = jax.sharding.get_abstract_mesh().abstract_device
    return jax.devices()[0].device_kind if device is None else device.device_kind


def platform() -> str:
    """'cpu', 'tpu' or 'gpu', as the `device_kind` tells."""
    kind = device_kind().lower()
    return next((name for name in ("cpu", "tpu") if kind.startswith(name)), "gpu")


def global_batch(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """This process's rows, whole, as arrays over the whole mesh, split along their first axis and their tokens'."""
    parts = batch_shards(mesh)
    _, processes = process_shard(mesh, parts)

    def place(rows):
        rows = np.asarray(rows)
        whole = (len(rows) * processes, *rows.shape[1:])
        tokens = spec(("sequence",), whole[1:2], mesh) if rows.ndim > 1 else ()
        where = NamedSharding(mesh, PartitionSpec(RULES["batch"], *(part for part in tokens if part)))
        return jax.make_array_from_process_local_data(where, rows, whole)

    return {name: place(rows) for name, rows in batch.items()}
