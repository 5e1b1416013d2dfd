"""Profiler traces of chosen steps, for TensorBoard's profile plugin, XProf and Perfetto.

    --config.profile.steps="(10, 3)"    steps 10, 11 and 12, in WORKDIR/tensorboard/plugins/profile/DATE/

Process 0 alone traces, what it and its own devices do. A trace begins when all steps before it are done and ends when
its last step is.
"""

import logging
import pathlib

import jax

from arch import config

log = logging.getLogger("arch")


@config.frozen
class Config(config.Config):
    """What is traced.

    Attributes:
      steps: the first step (from 1) and how many; () for none.
    """

    steps: tuple[config.PositiveInt, ...] = ()

    def check(self):
        if len(self.steps) not in (0, 2):
            raise ValueError(f"steps={self.steps} must be the first step and their number, such as (10, 3), or ()")


class Tracer:
    """Begins and ends the trace of a run."""

    def __init__(self, cfg: Config, workdir, *, enabled: bool):
        self._first, count = cfg.steps if cfg.steps and enabled else (0, 0)
        self._last = self._first + count - 1
        self._folder = pathlib.Path(workdir) / "tensorboard"
        self._running = False

    def begins(self, step: int) -> bool:
        """Whether this step is the first to trace."""
        return step == self._first and not self._running

    def ends(self, step: int) -> bool:
        """Whether this step is the last one traced."""
        return step == self._last and self._running

    def begin(self, state) -> None:
        """Begins when `state` is there: what the step before led to."""
        jax.block_until_ready(state)
        jax.profiler.start_trace(self._folder)
        self._running = True

    def end(self, state) -> None:
        """Ends when `state` is there: what the last traced step led to."""
        jax.block_until_ready(state)
        self.close()
        log.info("traced steps %d to %d into %s", self._first, self._last, self._folder / "plugins/profile")

    def close(self) -> None:
        """Ends a trace that is not ended."""
        if self._running:
            self._running = False
            jax.profiler.stop_trace()
