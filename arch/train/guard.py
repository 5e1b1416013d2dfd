"""Takes the steps of a run, and looks at what each says of its batch while the device is busy with the next.

One number a step comes back from the device, the reason of its verdict. Of a bad batch the state of before is still
there (see `arch.train.bad_batch`): the batch and what can be known of it are saved, and it is skipped, taken, or the
run stops. Then the step that the device was busy with, which changed nothing, is taken anew.
"""

import dataclasses
import logging
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from arch.data import dataset
from arch.sharding import mesh as meshes
from arch.train import bad_batch
from arch.train.bad_batch import JUDGE, SKIP, TAKE
from arch.train.forensics import Event, Forensics
from arch.train.logger import Logger
from arch.train.setup import Setup
from arch.train.state import TrainState

log = logging.getLogger("arch")


class BadBatchError(RuntimeError):
    """A batch that the run does not go past; the message names quantity, step, samples, and how to go past it."""


@dataclasses.dataclass
class _Turn:
    """A batch that has been given to the device.

    Attributes:
      step: from 1.
      batch: on the devices.
      ids: of this process's samples.
      order: what the step was told.
      metrics: what it gave.
      verdict: what it found of its batch.
    """

    step: int
    batch: dict[str, jax.Array]
    ids: np.ndarray
    order: int
    metrics: dict[str, Any] = dataclasses.field(default_factory=dict)
    verdict: dict[str, jax.Array] = dataclasses.field(default_factory=dict)

    def event(self, cfg: bad_batch.Config) -> Event | None:
        """What is wrong with it, where that is not settled by its order: waits for the device."""
        quantity, kind = bad_batch.REASONS[int(self.verdict["reason"])]
        update = quantity == "parameter_norm"  # no order settles that
        if not kind or (self.order != JUDGE and not update):
            return None
        limits = dict(zip(("loss", "gradient_norm"), self.verdict["limits"]))
        action = "stop" if update else cfg.action(kind)
        value, limit = float(self.metrics[quantity]), float(limits.get(quantity, np.inf))
        return Event(self.step, quantity, kind, value, limit, action, float(self.metrics["loss"]))


class Guard:
    """The steps of one run.

    Args:
      setup: of the run.
      step: the compiled `train_step`.
      key: of the run.
      logger: of the run.
      save: makes the newest checkpoint that of a state, before the run stops; given None it saves nothing. Returns the
        step of the newest, -1 if there is none.
    """

    def __init__(self, setup: Setup, step: Callable, key, logger: Logger, save: Callable[[TrainState | None], int]):
        self._setup, self._step, self._key, self._logger, self._save = setup, step, key, logger, save
        self._cfg, self._forensics = setup.cfg.bad_batch, Forensics(setup, key)
        self._last: _Turn | None = None

    def take(self, state: TrainState, rows: dict, step: int) -> tuple[TrainState, dict]:
        """The state behind a step with these rows, and the step's metrics; if they are bad, both change once more.

        Args:
          state: behind the step before.
          rows: this process's, with their `ids`.
          step: which, from 1.

        Raises:
          BadBatchError: the batch of the step before ends the run.
        """
        batch = meshes.global_batch(dataset.without_ids(rows), self._setup.mesh)
        before, self._last = self._last, _Turn(step, batch, rows["ids"], self._cfg.order(step))
        state = self._told(state, self._last)
        if before and (event := before.event(self._cfg)):
            state = self._told(self._dealt_with(state, before, event), self._last)
        return state, self._last.metrics

    def settle(self, state: TrainState) -> TrainState:
        """The state behind the last step, whose batch has been looked at, too. Raises as `take` does."""
        turn, self._last = self._last, None
        event = turn and turn.event(self._cfg)
        return self._dealt_with(state, turn, event) if event else state

    def _told(self, state: TrainState, turn: _Turn) -> TrainState:
        state, metrics = self._step(state, turn.batch, self._key, bad_batch.order(turn.step - 1, turn.order))
        turn.verdict = metrics.pop("verdict")
        turn.metrics.update(metrics)
        return state

    def _dealt_with(self, state: TrainState, turn: _Turn, event: Event) -> TrainState:
        """The state behind a bad batch, from the one before it. Raises BadBatchError where it ends the run."""
        what = f"{event.quantity} is {event.value:.6g}"
        if event.kind == "spike":
            what += f", a spike above {event.threshold:.6g},"
        what += f" at step {event.step}, in the batch with sample ids {np.asarray(turn.ids).tolist()}"
        if event.action == "skip" and int(state.watch.in_a_row) >= self._cfg.max_skips:
            event = dataclasses.replace(event, action="stop")
            what += f", and bad_batch.max_skips={self._cfg.max_skips} before it were skipped in a row"
        with self._logger.paused():
            what += f"; {self._forensics.save(event, state, turn.batch)}"
        if event.action == "stop":
            raise BadBatchError(f"{what}; {self._ways_on(state, event)}")
        what += f"; it is {'skipped' if event.action == 'skip' else 'taken'}"
        log.warning(what)
        self._logger.bad_batch(event.step, what)
        turn.order = SKIP if event.action == "skip" else TAKE
        state = self._told(state, turn)
        event = turn.event(self._cfg)  # an update, if it was taken, that leaves parameters which are no numbers
        return self._dealt_with(state, turn, event) if event else state

    def _ways_on(self, state: TrainState, event: Event) -> str:
        """Saves what is good of the state, and says how to go on from there."""
        batch = event.quantity != "parameter_norm"  # that is the fault of an update which has been made
        newest = self._save(state if batch else None)
        steps = tuple(sorted({*self._cfg.skip_steps, event.step}))
        ways = f"--config.bad_batch.skip_steps='{steps}' leaves this batch out"
        if batch and self._cfg.action(event.kind) != "skip":
            ways += f", --config.bad_batch.on_{event.kind}=skip all that are like it"
        return (f"the newest checkpoint is of step {newest}" if newest >= 0 else "there is no checkpoint") + f"; {ways}"
