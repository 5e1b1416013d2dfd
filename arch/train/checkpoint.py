"""Checkpoints: saved by Orbax in the background, whole or not at all, and restored onto any mesh.

    WORKDIR/checkpoints/300/state/           the arrays, one entry a path: `params/layers/scan_0_1/0/mlp/up`, ...
                            extra/           JSON: format version, metrics, and what the caller adds (data position ...)
                            checksums.json   size and CRC-32 of every file above

A step is written under a temporary name and renamed when it is complete (Orbax's atomic rename), so a process that dies
at any moment leaves the newest complete checkpoint as it was. In a job of several processes each writes its own shards;
process 0 alone seals, renames, deletes, and chooses what all of them restore. The folder is on a file system that all
processes see.
"""

import contextlib
import json
import logging
import math
import pathlib
import shutil
from collections.abc import Mapping
from typing import Any

import jax
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from arch import config
from arch.train import restore, seal
from arch.train.restore import FORMAT_VERSION, CheckpointError, find, restore_params

__all__ = ["FORMAT_VERSION", "CheckpointError", "Checkpoints", "Config", "find", "kept_steps", "restore_params"]


@config.frozen
class Config(config.Config):
    """Which checkpoints are kept: the union of the latest, the best, and one every so many steps.

    `best_metric` is what `keep_best` ranks by; lower is better. A checkpoint without a finite value is never a best.
    """

    keep_latest: config.PositiveInt = 2
    keep_best: config.NonNegativeInt = 1
    keep_every_steps: config.NonNegativeInt = 0
    best_metric: str = "eval/valid/loss"


class Checkpoints:
    """The checkpoints of one run, a folder each under `directory`, named by step.

    Args:
      directory: created if absent; leftovers of saves that were cut short are removed from it.
      cfg: what to keep.

    Raises:
      CheckpointError: the directory cannot be written.

    Not safe for two runs that train in the same directory at once. To read while a run trains, use `restore_params`.
    """

    def __init__(self, directory, cfg: Config = Config()):
        self._directory = pathlib.Path(directory).absolute()
        self._cfg = cfg
        self._scores: dict[int, float] = {}
        self._saving = -1
        if jax.process_index() == 0:
            _check_writable(self._directory)
        logging.getLogger("absl").addFilter(_without_orbax)
        options = ocp.CheckpointManagerOptions(
            cleanup_tmp_directories=True,
            lightweight_initialize=True,
            preservation_policy=self,
            async_options=ocp.AsyncOptions(post_finalization_callback=self._seal),
        )
        self._manager = ocp.CheckpointManager(self._directory, options=options)

    def latest_step(self) -> int:
        """The newest complete step (its files not yet checked), or -1 when there is none."""
        return max(self._manager.all_steps(), default=-1)

    def save(self, step: int, state: Any, *, extra: dict, metrics: Mapping[str, Any] | None = None, wait: bool = False):
        """Saves in the background; returns once the arrays are copied, so that `state` may be donated at once.

        A save still under way is waited for first. A step that is already there is left as it is.

        Args:
          step: number of optimizer steps that led to `state`.
          state: pytree of arrays, `params` among its top-level fields if `restore_params` is to find them.
          extra: what JSON can hold: data position, config as a dict, ...
          metrics: numbers by name; `cfg.best_metric` is looked up here. Non-finite values are stored as null.
          wait: return only when the checkpoint is complete.

        Raises:
          CheckpointError: this save, or the one before it, could not be written; the checkpoints before stay usable.
          TypeError: `extra` holds something that JSON cannot.
        """
        metrics = {name: float(value) if math.isfinite(value) else None for name, value in (metrics or {}).items()}
        record = json.loads(json.dumps({"format_version": FORMAT_VERSION, "metrics": metrics, "extra": extra}))
        self.wait()
        if step not in self._manager.all_steps():
            state = ocp.args.PyTreeSave(restore.flatten(state))
            items = ocp.args.Composite(**{restore.STATE: state, restore.EXTRA: ocp.args.JsonSave(record)})
            self._saving, self._scores[step] = step, _score(metrics, self._cfg)
            with self._reported():
                self._manager.save(step, args=items, force=True)
        if wait:
            self.wait()

    def restore(self, abstract_state: Any, optional: tuple[str, ...] = ()) -> tuple[Any, dict]:
        """The newest whole checkpoint, on the devices that `abstract_state` asks for: `(state, extra)`.

        A damaged newest one is reported by one warning and renamed to `STEP.unreadable`; the one before is used.

        Args:
          abstract_state: the state's structure with a `jax.ShapeDtypeStruct` as each leaf, its sharding set. The mesh
            may differ from the one that saved. No array is ever whole on one device unless its sharding says so.
          optional: how the paths of those leaves begin that may be absent, as in `restore.restore_step`.

        Raises:
          CheckpointError: there is no checkpoint, or all are damaged.
          ValueError: the saved state has other leaves, shapes or dtypes (they are named), or a newer format.
        """
        self.wait()
        step, damaged = restore.newest_whole(self._directory)
        for name in damaged:  # only process 0 has seen any
            aside = self._directory / f"{name}.unreadable"
            shutil.rmtree(aside, ignore_errors=True)
            self._path(name).rename(aside)
        if jax.process_count() > 1:
            multihost_utils.sync_global_devices("arch_damaged_checkpoints_moved")
        self._manager.reload()
        return restore.restore_step(self._path(step), abstract_state, optional=optional)

    def read_extra(self, step: int) -> dict:
        """What `save` was given as `extra`. Raises CheckpointError when the step is absent or unreadable."""
        return restore.read_record(self._path(step))["extra"]

    def wait(self) -> None:
        """Returns when no save is under way. Raises CheckpointError when the last one failed, once."""
        with self._reported():
            self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits, then releases the threads. Raises CheckpointError when the last save failed."""
        try:
            self.wait()
        finally:
            self._manager.close()
            logging.getLogger("absl").removeFilter(_without_orbax)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def should_preserve(self, checkpoints, *, context) -> list[bool]:
        """Orbax's interface of a preservation policy: `kept_steps` of what is there."""
        del context
        for info in checkpoints:
            if info.step not in self._scores:
                self._scores[info.step] = self._saved_score(info.step)
        kept = kept_steps({info.step: self._scores[info.step] for info in checkpoints}, self._cfg)
        return [info.step in kept for info in checkpoints]

    def _saved_score(self, step):
        try:
            return _score(restore.read_record(self._path(step))["metrics"], self._cfg)
        except (OSError, ValueError):  # cut short while it was deleted: not among the best
            return math.inf

    def _path(self, step: int) -> pathlib.Path:
        return self._directory / str(step)

    def _seal(self):
        """Runs on process 0 when all files of a step are written, before the rename that makes it count."""
        (temporary,) = self._temporaries()
        seal.seal(temporary, (restore.STATE, restore.EXTRA))

    def _temporaries(self) -> list[pathlib.Path]:
        return list(self._directory.glob(f"{self._saving}.orbax-checkpoint-tmp*"))

    @contextlib.contextmanager
    def _reported(self):
        """Turns what Orbax raises into one message, and removes what the failed save left on the disk."""
        try:
            yield
        except Exception as error:
            if jax.process_index() == 0:
                for leftover in self._temporaries():
                    shutil.rmtree(leftover, ignore_errors=True)
            self._manager.reload()
            latest = self.latest_step()
            usable = f"the newest complete one is {self._path(latest)}" if latest >= 0 else "there is no other"
            failed = f"checkpoint {self._path(self._saving)} could not be written"
            raise CheckpointError(f"{failed}: {restore.reason_of(error)}; {usable}") from error


def kept_steps(scores: dict[int, float], cfg: Config) -> set[int]:
    """Which of the saved steps stay: the latest, the best (of equals the later) and one every so many.

    Args:
      scores: `cfg.best_metric` by step, infinite where there is no finite value.
    """
    best = sorted((score, -step) for step, score in scores.items() if math.isfinite(score))[: cfg.keep_best]
    kept = set(sorted(scores)[-cfg.keep_latest :]) | {-step for _, step in best}
    return kept | {step for step in scores if cfg.keep_every_steps and step % cfg.keep_every_steps == 0}


def _score(metrics: dict, cfg: Config) -> float:
    value = metrics.get(cfg.best_metric)
    return math.inf if value is None else value


def _check_writable(directory: pathlib.Path) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
        probe = directory / ".writable"
        probe.write_text("")
        probe.unlink()
    except OSError as error:
        raise CheckpointError(f"{directory} cannot be written: {error.strerror}") from error


def _without_orbax(record: logging.LogRecord) -> bool:
    """Orbax narrates each save, and logs a failure once a thread with its stack; what failed is raised by `wait`."""
    return "orbax" not in pathlib.PurePath(record.pathname).parts or record.levelno == logging.WARNING
