"""Runs a sweep: its points in turn, each in a process of its own, or one of them in this process, as job arrays do.

    WORKDIR/<index>-<overrides>/     a run as any other, and its record (arch/train/results.py)

Finished points are skipped, stopped and failed ones go on where they were. SIGTERM, Ctrl-C and the end of the terminal
(SIGHUP) end the point that runs in a checkpoint, and the sweep with it.
"""

import contextlib
import dataclasses
import json
import logging
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from arch import config
from arch.train import command_line, measured, modes, provenance, results, setup, sweep
from arch.train.results import Result
from arch.train.startup import Startup

log = logging.getLogger("arch")


@dataclasses.dataclass(frozen=True)
class Sweep:
    """A sweep all of whose points have been checked.

    Attributes:
      workdir: where the points have their folders.
      points: what each sets.
      cfgs: of the runs.
      measure: what measures a point's config (`arch.train.measured`); None where points are trained.
    """

    workdir: pathlib.Path
    points: tuple[sweep.Point, ...]
    cfgs: tuple[config.Config, ...]
    measure: measured.Measure | None = None

    def __len__(self):
        return len(self.points)

    def result(self, index: int) -> Result:
        """The record of a point; a fresh one if it has not begun, or was of another config."""
        point, cfg = self.points[index], config.to_dict(self.cfgs[index])
        held = next((each for each in results.read(self.workdir) if each.index == index), None)
        if held is None:
            return Result(index, point.folder, dict(point.overrides), cfg, status="")
        return dataclasses.replace(held, config=cfg, status="") if provenance.diff(held.config, cfg) else held

    def hparams(self, index: int) -> dict[str, Any]:
        """What this point's config has at the leaves that vary, for TensorBoard."""
        tree = config.to_dict(self.cfgs[index]) | {"arg": self.points[index].overrides.get("arg", "")}
        values = {}
        for leaf in sweep.varied(self.points):
            with contextlib.suppress(LookupError, TypeError):  # another point's blocks may have other leaves
                value = command_line.leaf_at(tree, leaf)
                values[leaf] = str(value) if isinstance(value, Mapping) else value
        return values


def check(given: str, overrides: Mapping[str, Any], workdir: str) -> Sweep:
    """Reads and checks all points of a sweep, before the first one runs.

    Args:
      given: `FILE` or `FILE:ARGUMENT` of the config.
      overrides: what the command line sets in all points.
      workdir: the sweep's folder.

    Raises:
      ValueError: a point is wrong, or is another one than the workdir has begun with.
    """
    points, measure = sweep.read(given), measured.function(command_line.namespace(given))
    cfgs = sweep.configs(given, overrides, points)
    folder = pathlib.Path(workdir)
    held = {result.index: result for result in results.read(folder)}
    for point, cfg in zip(points, cfgs):
        result = held.get(point.index)
        if result and result.overrides != json.loads(json.dumps(dict(point.overrides))):
            old = sweep.Point(point.index, result.overrides)
            raise ValueError(f"{old} of {folder} is {point} now: add points at the end, or take another workdir")
        if measure:
            continue
        try:
            setup.check_same(cfg, folder / point.folder)
            if result:
                results.check_done(folder, result, cfg)
        except ValueError as error:
            raise ValueError(f"{point}: {error}") from None
    return Sweep(folder, points, tuple(cfgs), measure)


def run_all(todo: Sweep, argv: Sequence[str]) -> int:
    """Runs all points that are not finished, in turn.

    Args:
      todo: the sweep.
      argv: this process's command, which with `--sweep_index=i` runs a point.

    Returns:
      How many points have failed.
    """
    states = []
    with Forwarding() as forwarding:
        for point in todo.points:
            result = todo.result(point.index)
            if result.status != "finished":
                log.info("%s of %d", point, len(todo.points))
                start = time.monotonic()
                status = forwarding.run([sys.executable, *argv, f"--sweep_index={point.index}"])
                result = _after(todo, point, result, status, forwarding.signals, time.monotonic() - start)
            states.append(result)
            if forwarding.signals or result.status == "stopped":
                log.info("stopped at point %d of %d; the same command goes on", point.index, len(todo.points))
                return 0
    results.update_table(todo.workdir)
    failed = [result for result in states if result.status == "failed"]
    log.info("%d of %d points finished: %s", len(states) - len(failed), len(states), todo.workdir / "results.tsv")
    for result in failed:
        log.info("point %d failed: %s", result.index, result.error)
    return len(failed)


def run_point(todo: Sweep, index: int, overrides: Mapping[str, Any], startup: Startup, *, main: bool) -> None:
    """Trains or measures one point in this process, unless it is finished.

    Args:
      todo: the sweep.
      index: of the point.
      overrides: what the command line sets in all points.
      startup: as in `modes.train`.
      main: whether this process is the one that writes.
    """
    result, point = todo.result(index), todo.points[index]
    if result.status == "finished":
        log.info("%s is finished already", point)
        return
    cfg, folder, changed = todo.cfgs[index], todo.workdir / point.folder, {**overrides, **point.overrides}
    if todo.measure:
        _recorded(lambda: measured.run(todo.measure, cfg, folder, changed), todo.workdir, result, main)
    else:
        args = cfg, str(folder), changed, startup, todo.hparams(index)
        _recorded(lambda: modes.train(*args), todo.workdir, result, main)


def _recorded(train: Callable[[], Any], workdir: pathlib.Path, result: Result, main: bool) -> None:
    """Calls `train`, whose numbers are empty if a signal stopped it; writes the point's record before and behind it."""

    def write(status, error=""):
        result.status, result.error = status, error
        result.seconds = before + time.monotonic() - start
        if main:
            results.write(workdir, result)

    before, start = result.seconds, time.monotonic()
    write("running")
    previous = signal.signal(signal.SIGTERM, signal.default_int_handler)  # until the run minds its signals itself
    try:
        numbers = train()
    except KeyboardInterrupt:
        write("stopped")
        log.info("stopped before the first step")
    except BaseException as error:
        write("failed", _first_line(error))
        raise
    else:
        write("finished" if numbers else "stopped")
    finally:
        signal.signal(signal.SIGTERM, previous)


def _first_line(error: BaseException) -> str:
    """What went wrong, of an exception or of the one that ended the process with one line."""
    if isinstance(error, SystemExit) and error.__context__ is not None:
        return command_line.one_line(error.__context__)
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def _after(todo: Sweep, point: sweep.Point, before: Result, status: int, signals: list, seconds: float) -> Result:
    """The record of a point whose process has ended; written here if the process could not."""
    result = todo.result(point.index)
    if status in (0, 1, 2) and result.status not in ("", "running") and result != before:
        return result
    how = f"killed by {signal.Signals(-status).name}" if status < 0 else f"ended with exit status {status}"
    result.status, result.error = ("stopped", "") if signals else ("failed", how)
    result.seconds = before.seconds + seconds
    results.write(todo.workdir, result)
    return result


_FORWARDED = {signal.SIGTERM: signal.SIGTERM, signal.SIGINT: signal.SIGINT, signal.SIGHUP: signal.SIGTERM}
"""The signals that end a sweep, and what the process of its point gets: a run does not know SIGHUP."""


class Forwarding:
    """Context manager in which SIGTERM, SIGINT and SIGHUP end the process that `run` has started, and all later ones.

    The process is in a group of its own, so that a terminal's Ctrl-C reaches it once, from here. Where SIGHUP is
    ignored it stays so: that is what nohup is for.
    """

    def __init__(self):
        self.signals: list[int] = []
        self._process: subprocess.Popen | None = None

    def __enter__(self):
        nohup = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
        caught = [number for number in _FORWARDED if not (nohup and number == signal.SIGHUP)]
        self._previous = {number: signal.signal(number, self._on_signal) for number in caught}
        return self

    def __exit__(self, *_):
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def run(self, command: Sequence[str]) -> int:
        """The exit status of a command, negative for a signal's number."""
        self._process = subprocess.Popen(command, process_group=0)
        for number in self.signals:  # between the last process and this one
            self._process.send_signal(_FORWARDED[number])
        return self._process.wait()

    def _on_signal(self, number, frame):
        del frame
        self.signals.append(number)
        if self._process is not None:
            self._process.send_signal(_FORWARDED[number])
