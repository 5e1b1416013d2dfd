"""What a run writes while it trains: numbers, texts, images and histograms under the names of `arch.train.names`.

A step's metrics are read one step later, in one transfer, while the device is busy with the step behind it; steps that
are not logged are not read. So a log never makes the device wait, but where an evaluation or checkpoint does anyway.
"""

import contextlib
import logging
import sys
import time
from collections.abc import Iterable, Mapping
from typing import Any

import jax

from arch.train import report, specialisation
from arch.train.clock import Clock, Work
from arch.train.histograms import Histogram
from arch.train.load_history import LoadHistory
from arch.train.progress import Progress
from arch.train.routing_alarm import Alarm
from arch.train.setup import Setup
from arch.train.startup import Startup
from arch.train.utilization import Utilization, utilization
from arch.train.watch import Watch
from arch.train.writer import Writer

log = logging.getLogger("arch")


class Logger:
    """One process's log; process 0 alone writes files.

    Args:
      setup: the run.
      step: that it begins or goes on from.
      startup: when the process began.
      clock: of the run.
      hparams: hyperparameters for TensorBoard.
      watch: what the processes tell of themselves.
    """

    def __init__(
        self, setup: Setup, step: int, startup: Startup, clock: Clock, hparams: Mapping[str, Any], watch: Watch
    ):
        self._setup, self._cfg, self._startup, self._clock, self._watch = setup, setup.cfg, startup, clock, watch
        self._writer = Writer(setup.workdir, enabled=jax.process_index() == 0, resume_step=step or -1)
        self._loads, self._alarm = LoadHistory(setup.workdir / "metrics.jsonl"), Alarm(self._cfg.model)
        self._writer.write_hparams(hparams)
        self._writer.write_texts(step, {"parameters": report.parameter_table(setup.plan)})
        self._tokens = self._cfg.batch_size * self._cfg.seq_len
        self._progress = Progress(self._cfg.total_steps, self._tokens, start_step=step)
        self._held: tuple = ()
        self._written = -1
        self._utilization: Utilization | None = None

    def compiled(self, step: int, seconds: float, compiled: jax.stages.Compiled) -> None:
        """The train step is compiled."""
        scalars = {"perf/compile_seconds": seconds}
        sizes = compiled.memory_analysis()
        if sizes is not None:
            scalars["mem/step_temporary_bytes"] = sizes.temp_size_in_bytes
            scalars["mem/step_argument_bytes"] = sizes.argument_size_in_bytes
        self._writer.write_scalars(step, scalars)
        mesh = self._setup.mesh
        self._utilization = utilization(
            self._cfg.model,
            self._cfg.batch_size,
            self._cfg.task.lengths(self._cfg.seq_len),
            device_kind=mesh.devices.flat[0].device_kind,
            num_devices=mesh.size,
        )
        log.info("%s", self._utilization.formula)

    def first_step(self, step: int) -> None:
        """The first step of this process is done."""
        log.info("first step after %s", self._startup.line())
        phases = self._startup.seconds | {"total": self._startup.total}
        self._writer.write_scalars(step, {f"perf/startup_{phase}_seconds": s for phase, s in phases.items()})

    def waiting(self, work: Work | None):
        """Context of the wait for a batch, while the device may still be busy with `work`."""
        return self._clock.waiting(work)

    @contextlib.contextmanager
    def paused(self, cause: str = "other"):
        """Context of what is no time of a step, by its cause."""
        with self._clock.lost(cause), self._progress.paused():
            yield

    def step(self, step: int, metrics: Mapping[str, Any], *, due: bool) -> None:
        """A step is on its way; the one before it, if it was due, is read and written.

        The metrics are those at that time: of a bad batch they change once more (see `arch.train.guard`).
        """
        self._clock.step()
        self.write_held()
        if due:
            self._held = (step, metrics)
        self._progress.update(step)

    def write_held(self) -> None:
        """Reads and writes a step that was due."""
        if not self._held:
            return
        (step, metrics), self._held = self._held, ()
        self._written = step
        metrics = jax.device_get(metrics)
        stats = metrics.pop("stats")
        scalars = {f"train/{name}": float(value) for name, value in metrics.items()}
        lap = self._clock.lap(step, int(metrics.get("skipped_steps", 0)))
        scalars |= {f"perf/{name}": value for name, value in lap.items()}
        scalars["perf/tokens_per_second"] = self._tokens / lap["seconds_per_step"]
        scalars |= self._utilization.scalars(lap["seconds_per_step"]) | report.memory() | report.layer_scalars(stats)
        for line in self._watch.lines() if jax.process_index() == 0 else ():
            scalars |= {f"perf/process_{line.index}/{phase}_seconds": s for phase, s in line.seconds.items()}
        self._writer.write_scalars(step, scalars)
        self._loads.add(scalars)
        if alarms := self._alarm.heed(scalars):
            self._writer.write_texts(step, alarms)
            for name, text in alarms.items():
                log.warning("step %d: %s: %s", step, name, text)
        self._progress.update(step, scalars["train/loss"])
        if not sys.stderr.isatty():
            total, rate = self._cfg.total_steps, scalars["perf/tokens_per_second"]
            log.info("step %d/%d  loss %.4f  %.0f tokens/s", step, total, scalars["train/loss"], rate)

    def evaluation(self, step: int, metrics: Mapping[str, float], stats: Mapping[str, Any]) -> None:
        """The metrics of an evaluation, and the routers' loads in the step before it."""
        self._writer.write_scalars(step, metrics)
        log.info("step %d: %s", step, ", ".join(f"{name} {value:.4f}" for name, value in metrics.items()))
        image = report.load_image(jax.device_get(stats))
        if image is not None:
            self._writer.write_images(step, {"moe/load": image})
        self._write_loads(step)

    def routing(self, step: int, layers: Mapping[str, Any]) -> None:
        """What the experts are for, the `specialisation.tables` of an evaluation."""
        if not layers:
            return
        texts = {}
        for layer, tables in layers.items():
            texts[f"moe/{layer}/experts"] = specialisation.markdown(tables)
            texts[f"moe/{layer}/coactivation"] = specialisation.coactivation(tables)
        self._writer.write_texts(step, texts)
        if jax.process_index() == 0:
            specialisation.write(self._setup.workdir / "routing.json", step, layers)

    def _write_loads(self, step: int) -> None:
        image = self._loads.image()
        if image is not None:
            self._writer.write_images(step, {"moe/load_history": image})

    def sample(self, step: int, text: str) -> None:
        """A text of the model's."""
        self._writer.write_texts(step, {"sample": f"```\n{text}\n```"})

    def bad_batch(self, step: int, text: str) -> None:
        """What was wrong with the batch of a step that the run goes past, and where it is saved."""
        self._writer.write_texts(step, {"bad_batch": text})

    def hparams(self, hparams: Mapping[str, Any], metrics: Iterable[str]) -> None:
        """Hyperparameters, and the names of the scalars to compare runs by."""
        self._writer.write_hparams(hparams, metrics)

    def histograms(self, step: int, histograms: Mapping[str, Histogram]) -> None:
        """Of parameters and updates."""
        self._writer.write_histograms(step, histograms)
        self._write_loads(step)

    @contextlib.contextmanager
    def evaluating(self, step: int):
        """Context of an evaluation."""
        with self._timed(step, "eval"):
            yield

    @contextlib.contextmanager
    def saving(self, step: int):
        """Context of a checkpoint. What it must not be ahead of goes to the disk first, the kept time among it."""
        if self._written != step:
            self._writer.write_scalars(step, {f"perf/{name}": value for name, value in self._clock.so_far().items()})
        self._writer.flush()
        with self._timed(step, "checkpoint"):
            yield

    @contextlib.contextmanager
    def _timed(self, step: int, what: str):
        begin = time.perf_counter()
        with self.paused(what):
            yield
        self._writer.write_scalars(step, {f"perf/{what}_seconds": time.perf_counter() - begin})

    def close(self) -> None:
        """Closes the files."""
        self._clock.close()
        self._progress.close()
        self._writer.close()
