"""The road: config -> data -> model -> sharded state -> step -> metrics -> checkpoint, and the same again on resume."""

import contextlib
import dataclasses
import functools
import logging
import time
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import jax

from arch import config, tree
from arch.data import dataset
from arch.data.reader import Reader
from arch.kernels.implementations import told
from arch.sharding import mesh as meshes
from arch.train import bad_batch, connection, evaluation, implementations, ledger, provenance
from arch.train.checkpoint import Checkpoints
from arch.train.clock import Clock
from arch.train.consent import Consent
from arch.train.guard import Guard
from arch.train.histograms import Histograms
from arch.train.interrupt import Interrupt
from arch.train.logger import Logger
from arch.train.profiling import Tracer
from arch.train.program import jitted
from arch.train.setup import Setup
from arch.train.start import start
from arch.train.startup import Startup
from arch.train.state import TrainState
from arch.train.watch import Watch

log = logging.getLogger("arch")


class Stopped(Exception):
    """A signal asked the run to stop; its name."""


def train(
    setup: Setup,
    overrides: Mapping[str, Any],
    startup: Startup | None = None,
    hparams: Mapping[str, Any] | None = None,
) -> dict[str, float]:
    """Trains, or goes on training, until `total_steps`. Returns the last evaluation's metrics ({} if it was stopped).

    Args:
      setup: what `setup.prepare` made.
      overrides: the leaves that the command line changed, for the record.
      startup: what has been marked of the time to the first step; None to begin here.
      hparams: hyperparameters for TensorBoard; None for the whole config.

    Raises:
      BadBatchError: a batch ends the run (see `arch.train.bad_batch`).
      DisconnectedError: a balance loss does not reach its router (see `arch.train.connection`).
      CheckpointError: a checkpoint cannot be read or written.
      FailedError: another process has failed.
    """
    with Interrupt() as interrupt, Consent(interrupt) as consent, jax.set_mesh(setup.mesh):
        run = Run(setup, overrides, consent, startup or Startup(), hparams)
        with contextlib.closing(run):
            try:
                return run.train()
            except Stopped as signal:
                return run.stop(str(signal))


class Run:
    """One process's side of a training run, between its start and its end or a signal."""

    def __init__(self, setup: Setup, overrides: Mapping, consent: Consent, startup: Startup, hparams: Any):
        self.hparams = config.to_dict(setup.cfg) if hparams is None else hparams
        self.setup, self.cfg, self.consent, self.startup = setup, setup.cfg, consent, startup
        self.main = jax.process_index() == 0
        with contextlib.ExitStack() as opened:  # a start that fails leaves nothing open
            self._open(opened, overrides)
            self._opened = opened.pop_all()

    def _open(self, opened: contextlib.ExitStack, overrides: Mapping) -> None:
        setup, startup = self.setup, self.startup
        self.checkpoints = Checkpoints(setup.workdir / "checkpoints", self.cfg.checkpoints)
        opened.callback(self.checkpoints.close)
        who = dict(index=jax.process_index(), count=jax.process_count())
        before = ledger.before(setup.workdir, startup.began)
        self.clock = Clock(startup.began, before, patience=self.cfg.watch_seconds)
        self.ledger = ledger.Ledger(setup.workdir, self.clock, enabled=self.main)
        self.watch = Watch(setup.workdir, **who, patience=self.cfg.watch_seconds, beat=self.ledger.write)
        opened.callback(self.watch.close)
        with self.watch.phase("restore"), self.clock.lost("restore"):
            self.state, evaluation = start(setup, self.checkpoints)
        self.step = int(self.state.step)
        self.clock.goes_on(*ledger.kept(setup.workdir, self.step))
        self.evaluated = (self.step if evaluation else -1, evaluation)
        self.guard = self.under_way = None
        if self.main:
            done = self.step >= self.cfg.total_steps
            provenance.write(setup.workdir, config.to_dict(self.cfg), overrides, done=done)
        self.ledger.begin()
        self.logger = Logger(setup, self.step, startup, self.clock, self.hparams, self.watch)
        opened.callback(self.logger.close)
        self.histograms = Histograms(self.cfg.histogram_every_steps)
        self.tracer = Tracer(self.cfg.profile, setup.workdir, enabled=self.main)
        opened.callback(self.tracer.close)
        self.saved = self.step if self.checkpoints.latest_step() == self.step else -1
        self.data = setup.dataset("train")

    def train(self) -> dict[str, float]:
        cfg = self.cfg
        if self.step >= cfg.total_steps:
            log.info("step %d of %d is done already", self.step, cfg.total_steps)
        if self.step and self._due("eval"):  # a signal may have stopped the run before it did this
            self.evaluate()
        if self.step < cfg.total_steps:
            with self.watch.phase("compile"), self.clock.lost("compile"):
                self.begin()
            self.clock.start(self.step)
            with contextlib.closing(Reader(dataset.batches(self.data, self.step))) as batches:
                while self.step < cfg.total_steps:
                    self.advance(batches)
        return self.evaluated[1]

    def begin(self) -> None:
        """Checks the routers, compiles the step."""
        self._heed()
        key, rows = jax.random.key(self.cfg.seed), self.data[self.step]
        self.startup.mark("state")
        connection.must_reach(self.setup, self.state.params, rows, key)
        self.startup.mark("check")
        step = self._compiled(rows, key)
        self.guard = Guard(self.setup, step, key, self.logger, self._newest)
        self.startup.mark("compile")

    def advance(self, batches: Reader) -> None:
        """One step, and what is due behind it."""
        with self.watch.phase("data"), self.logger.waiting(self.under_way):
            rows = batches.next(give_up=self.consent.wanted)
        self._heed()
        metrics = self._take(rows)
        self.under_way = metrics["loss"]
        self.logger.step(self.step, metrics, due=self._due("log"))
        if self._due("eval") or self._due("checkpoint"):
            self.state = self.guard.settle(self.state)
            self.logger.write_held()
            if self._due("eval"):
                self.evaluate(metrics["stats"])
            if self._due("checkpoint"):
                self.save(wait=self.step >= self.cfg.total_steps)

    def _take(self, rows: dict) -> dict:
        """One step; with what is looked at around it, at chosen steps."""
        number = self.step + 1
        if self.histograms.due(number):
            self.state = self.guard.settle(self.state)
            with self.logger.paused():
                self.histograms.before(self.state.params)
        if self.tracer.begins(number):
            with self.logger.paused():
                self.tracer.begin(self.state)
        with jax.profiler.StepTraceAnnotation("train", step_num=number):
            self.state, metrics = self.guard.take(self.state, rows, number)
        self.step = number
        self.watch.step(number)
        if "step" not in self.startup.seconds:
            jax.block_until_ready(metrics)
            self.startup.mark("step")
            self.logger.first_step(number)
        if self.tracer.ends(number):
            with self.logger.paused():
                self.tracer.end(self.state)
        if self.histograms.due(number):
            self.state = self.guard.settle(self.state)
            with self.logger.paused():
                self.logger.histograms(number, self.histograms.after(self.state.params))
        return metrics

    def _due(self, what: str) -> bool:
        """Whether the step just taken is one to log, evaluate or save at; the last one is all of them."""
        every = getattr(self.cfg, f"{what}_every_steps")
        return self.step >= self.cfg.total_steps or bool(every and self.step % every == 0)

    def _compiled(self, rows: dict, key):
        """The train step, compiled once, for the shapes of the first batch."""
        setup = self.setup
        batch = meshes.global_batch(dataset.without_ids(rows), setup.mesh)
        step = jitted(self.cfg, setup.model, setup.optimizer, setup.plan, setup.mesh, setup.token_bytes)
        log.info("compiling the step")
        start = time.perf_counter()
        with told() as found:
            lowered = step.lower(self.state, batch, key, bad_batch.order(self.step, bad_batch.JUDGE))
        rows = implementations.table(self.cfg.model, found)
        for line in implementations.lines(rows, setup.mesh.devices.flat[0].device_kind):
            log.info(line)
        compiled = lowered.compile()
        seconds = time.perf_counter() - start
        log.info("compiled the step in %.1f s; %d parameters", seconds, tree.count(setup.plan.abstract.params))
        self.logger.compiled(self.step, seconds, compiled)
        return compiled

    def evaluate(self, stats: Mapping[str, Any] = MappingProxyType({})) -> dict[str, float]:
        """The validation split's loss, and a sample of text; `stats` are the layers' of the step before."""
        if self.evaluated[0] == self.step:
            return self.evaluated[1]
        with self.watch.phase("eval"), self.logger.evaluating(self.step):
            params = self.state.average if self.cfg.ema.in_use else self.state.params
            tell = functools.partial(self.logger.routing, self.step)
            metrics = evaluation.evaluate(self.setup, params, heed=self._heed, tell=tell)
            if not self.evaluated[1]:
                self.logger.hparams(self.hparams, metrics)
            self.evaluated = (self.step, metrics)
            self.logger.evaluation(self.step, metrics, stats)
            if self.cfg.sample_prompt:
                self.logger.sample(self.step, evaluation.sample_text(self.setup, params, self.cfg.sample_prompt))
        return metrics

    def save(self, *, wait: bool = False) -> None:
        """A checkpoint of the present step, if there is none yet and its batch was good, or has been dealt with."""
        if self.guard:
            self.state = self.guard.settle(self.state)
        self._save(wait=wait)

    def _newest(self, state: TrainState | None) -> int:
        """The newest checkpoint's step (-1 if there is none), that of this state if one is given."""
        if state is not None and int(state.step):
            self.state, self.step = state, int(state.step)
            self._save(wait=True)
        return self.checkpoints.latest_step()

    def _save(self, *, wait: bool) -> None:
        self.logger.write_held()
        if self.saved != self.step:
            with self.watch.phase("checkpoint"), self.logger.saving(self.step):
                self.ledger.write()  # behind the line of metrics that tells what was kept
                self._write_checkpoint()
                self.saved = self.step
                if wait:
                    self.checkpoints.wait()
        elif wait:
            with self.clock.lost("checkpoint"):
                self.checkpoints.wait()

    def _write_checkpoint(self) -> None:
        metrics = self.evaluated[1] if self.evaluated[0] == self.step else {}
        extra = {
            "config": config.to_dict(self.cfg),
            "config_format_version": config.FORMAT_VERSION,
            "position": {"step": self.step, "samples": self.step * self.cfg.batch_size},
            "data_fingerprint": self.setup.data.fingerprint,
            "evaluation": metrics,
        }
        state, disk = self.state, self.setup.disk
        if disk:  # the next step writes these files
            state = dataclasses.replace(state, opt_state=disk.whole(state.opt_state))
        self.checkpoints.save(self.step, state, extra=extra, metrics=metrics, wait=disk is not None)

    def stop(self, signal: str) -> dict:
        """Ends the run at a signal: what was done is kept."""
        if self.step:
            self.save(wait=True)
        log.info("%s: stopped at step %d of %d; the same command goes on", signal, self.step, self.cfg.total_steps)
        return {}

    def close(self) -> None:
        with self._opened:  # whatever fails here, the rest is closed
            self.watch.close()  # it writes the ledger, too
            if self.main:
                log.info("%s", self.clock.line())
                self.ledger.write(done=self.step >= self.cfg.total_steps)

    def _heed(self) -> None:
        """Raises Stopped when a signal came, to this process or another one: all stop here."""
        self.watch.step(self.step)
        if reason := self.consent.stop():
            raise Stopped(reason)
