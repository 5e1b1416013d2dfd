"""The least that a run needs of a device's memory, held against what the device has, before anything is allocated.

The state is exact; of a step's activations only the residual stream of one layer is counted, so that no run is refused
that could be trained. `arch/train/memory.py` estimates the rest.
"""

import pathlib
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from arch import config, tree
from arch.sharding import mesh as meshes
from arch.train import experiment, memory
from arch.train import state as states

_GIB = 2**30
_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def device_bytes(device: Any) -> int:
    """The memory that a device may use: as it tells itself, else its share of this machine's or container's."""
    stats = device.memory_stats()
    if stats and "bytes_limit" in stats:
        return int(stats["bytes_limit"])
    return host_bytes() // jax.local_device_count()


def host_bytes() -> int:
    """The memory of this machine, or what its container allows of it."""
    info = pathlib.Path("/proc/meminfo")
    lines = info.read_text().splitlines() if info.exists() else ()
    sizes = [int(line.split()[1]) * 1024 for line in lines if line.startswith(("MemTotal:", "SwapTotal:"))]
    limits = [file.read_text().strip() for file in map(pathlib.Path, _LIMITS) if file.exists()]
    return min([sum(sizes) or 2**63, *(int(limit) for limit in limits if limit.isdecimal())])


def state_must_fit(model_cfg: Any, plan: states.Plan, mesh: Mesh) -> None:
    """Refuses a run whose state alone is more than a device's memory. Raises ValueError with both sizes."""
    device = mesh.local_devices[0]
    have = device_bytes(device)
    state = memory.size(plan.abstract)
    if state > have:
        largest, path = _largest(config.to_dict(model_cfg), "model")
        raise ValueError(
            f"model: its {tree.count(plan.abstract.params)} parameters and the optimizer's state take {_gib(state)} of "
            f"each device, which must be at most the {_gib(have)} that {device.device_kind} has: mesh.fsdp splits "
            f"them; the largest size is {path}={largest}"
        )


def _largest(node: Any, path: str) -> tuple[int, str]:
    """The largest integer of a nested config, and where it is."""
    if isinstance(node, dict):
        return max((_largest(value, f"{path}.{key}") for key, value in node.items()), default=(0, path))
    if isinstance(node, tuple):
        return max((_largest(value, f"{path}[{i}]") for i, value in enumerate(node)), default=(0, path))
    return (node if type(node) is int else 0), path


def batch_must_fit(cfg: experiment.Config, mesh: Mesh) -> None:
    """Refuses a run of whose batch one layer's output is more than a device's memory. Raises ValueError likewise."""
    device = mesh.local_devices[0]
    have = device_bytes(device)
    rows = cfg.batch_size // cfg.micro_batches // meshes.batch_shards(mesh)
    tokens = cfg.seq_len // meshes.context_shards(mesh)
    stream = rows * tokens * cfg.model.embed_dim * jnp.dtype(cfg.model.dtype).itemsize
    if stream > have:
        raise ValueError(
            f"batch_size={cfg.batch_size} of seq_len={cfg.seq_len}, model.embed_dim={cfg.model.embed_dim}: one layer's "
            f"output takes {_gib(stream)} of each device, which must be at most the {_gib(have)} that "
            f"{device.device_kind} has: micro_batches splits it, and mesh.context"
        )


def _gib(size: int) -> str:
    return f"{size / _GIB:,.1f} GiB"
