"""What a run tells of itself beside its losses: parameters, memory, and what its layers do."""

import resource
import sys
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from arch import tree
from arch.ops.routing import statistics
from arch.train import state as states

_PIXELS = 16


def parameter_table(plan: states.Plan) -> str:
    """Each parameter's path, shape, axes, place and size, as a Markdown table."""
    lines = ["| parameter | shape | axes | sharding | values |", "|---|---|---|---|---|"]
    for path, leaf in tree.paths(plan.abstract.params).items():
        lines.append(f"| {path} | {leaf.shape} | {', '.join(plan.axes[path])} | {leaf.sharding.spec} | {leaf.size} |")
    return "\n".join([*lines, f"| sum | | | | {tree.count(plan.abstract.params)} |"])


def memory() -> dict[str, int]:
    """`mem/...` in bytes, as `arch.train.names` says: of the local devices, where they tell, and of this process."""
    host = {"bytes": _resident_bytes(), "peak_bytes": _peak_resident_bytes()}
    sizes = {f"mem/host_{name}": value for name, value in host.items()}
    devices = {"peak": [], "live": []}
    for device, stats in device_memory().items():
        for name, key in (("peak", "peak_bytes_in_use"), ("live", "bytes_in_use")):
            if key in stats:
                sizes[f"mem/device_{device}/{name}_bytes"] = int(stats[key])
                devices[name].append(int(stats[key]))
    of_host = {"peak": host["peak_bytes"], "live": host["bytes"]}
    return sizes | {f"mem/{name}_bytes": max(values, default=of_host[name]) for name, values in devices.items()}


def device_memory() -> dict[int, dict[str, int]]:
    """What each local device tells of its memory, by its number; a CPU tells nothing."""
    return {device.id: device.memory_stats() or {} for device in jax.local_devices()}


def _peak_resident_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _resident_bytes() -> int:
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * resource.getpagesize()
    except OSError:
        return _peak_resident_bytes()


def layer_scalars(stats: Mapping[str, Any]) -> dict[str, float]:
    """The layers' statistics as `arch.train.names` says: of routers `moe/<layer>/...`, of others `<sublayer>/...`.

    Args:
      stats: NumPy arrays by path, as a training step gives them: `layers/3/moe/expert_load`.
    """
    scalars = {}
    for sublayer, values in _by_sublayer(stats).items():
        if "expert_load" in values:
            losses = {name: value for name, value in values.items() if name not in statistics.SUMS}
            routed = statistics.summary(values) | {f"{name}_loss": float(value) for name, value in losses.items()}
            scalars |= {f"moe/{layer_name(sublayer)}/{name}": value for name, value in routed.items()}
        else:
            for name, value in values.items():
                entries = {name: value} if np.ndim(value) == 0 else {f"{name}/{i}": x for i, x in enumerate(value.flat)}
                scalars |= {f"{sublayer}/{entry}": float(x) for entry, x in entries.items()}
    return scalars


def load_image(stats: Mapping[str, Any]) -> np.ndarray | None:
    """[h w 3] uint8, a row a mixture of experts and a column an expert; None where there are none.

    White is the even load; blue is none, red twice the even load or more.
    """
    loads = [np.asarray(v["expert_load"], float) for v in _by_sublayer(stats).values() if "expert_load" in v]
    if not loads:
        return None
    pixels = np.full((len(loads), max(load.size for load in loads), 3), 128, np.uint8)
    for row, load in zip(pixels, loads):
        row[: load.size] = colours(load / max(load.mean(), 1e-9))
    return pixels.repeat(_PIXELS, axis=0).repeat(_PIXELS, axis=1)


def colours(load: np.ndarray) -> np.ndarray:
    """[... 3] uint8 of loads [...] in units of the even one: 0 is blue, 1 white, 2 and more red."""
    over = np.clip(load - 1, -1, 1)
    parts = np.stack([1 - np.clip(-over, 0, 1), 1 - np.abs(over), 1 - np.clip(over, 0, 1)], axis=-1)
    return np.round(255 * parts).astype(np.uint8)


def _by_sublayer(stats: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """{path of a sublayer: {name: value}}, layer 10 behind layer 9."""
    found: dict[str, dict[str, Any]] = {}
    for path, value in stats.items():
        sublayer, name = path.rsplit("/", 1)
        found.setdefault(sublayer, {})[name] = value
    return {key: found[key] for key in sorted(found, key=natural)}


def natural(path: str) -> list:
    """For sorting: layer 10 behind layer 9."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in path.split("/")]


def layer_name(sublayer: str) -> str:
    """A mixture's layer by the path of its sublayer; a block's second mixture of experts keeps its own."""
    return sublayer.removesuffix("/moe")
