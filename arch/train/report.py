"""What a run tells of itself beside its losses: parameters, memory, and time a step."""

import contextlib
import resource
import sys
import time

import jax

from arch import tree
from arch.train import state as states


def parameter_table(plan: states.Plan) -> str:
    """Each parameter's path, shape, axes, place and size, as a Markdown table."""
    lines = ["| parameter | shape | axes | sharding | values |", "|---|---|---|---|---|"]
    for path, leaf in tree.paths(plan.abstract.params).items():
        lines.append(f"| {path} | {leaf.shape} | {', '.join(plan.axes[path])} | {leaf.sharding.spec} | {leaf.size} |")
    return "\n".join([*lines, f"| sum | | | | {tree.count(plan.abstract.params)} |"])


def peak_bytes() -> int:
    """The most memory used so far: of the first local device where it tells, else of this process."""
    stats = jax.local_devices()[0].memory_stats()
    if stats and "peak_bytes_in_use" in stats:
        return int(stats["peak_bytes_in_use"])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


class Timer:
    """Seconds a step since the last lap, without pauses."""

    def __init__(self, step: int):
        self._step, self._start = step, time.perf_counter()

    def lap(self, step: int) -> float:
        """Seconds a step since the lap before, at this step."""
        now = time.perf_counter()
        seconds = (now - self._start) / max(step - self._step, 1)
        self._step, self._start = step, now
        return seconds

    @contextlib.contextmanager
    def paused(self):
        """What happens inside does not count."""
        begin = time.perf_counter()
        yield
        self._start += time.perf_counter() - begin
