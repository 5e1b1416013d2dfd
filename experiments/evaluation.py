"""What else a trained point is worth: its validation on rows of other lengths than it was trained on."""

import contextlib
import dataclasses
import tempfile
from collections.abc import Iterable, Iterator
from typing import Any

import jax

from arch.train import evaluation, experiment, restore, setup
from experiments.record import Point


def at_lengths(point: Point, lengths: Iterable[int], *, tokens: int) -> dict[int, dict[str, float]]:
    """The metrics of a point's model on rows of each length.

    Args:
      point: trained.
      lengths: of rows.
      tokens: of the validation split, the same number at each length, in batches of as many rows as in training.
    """
    found = {}
    with _restored(point) as (ready, params):
        for length in lengths:
            batches = max(1, tokens // (ready.cfg.batch_size * length))
            other = ready.cfg.replace(seq_len=length, eval_batches=batches)
            found[length] = evaluation.evaluate(dataclasses.replace(ready, cfg=other), params)
    return found


def at_drawn_lengths(point: Point, lengths: Iterable[int]) -> dict[int, dict[str, float]]:
    """The metrics of a point's model on the validation rows of its task, drawn at each length.

    Args:
      point: trained, on a task that draws its rows and has a `length`.
      lengths: of that task; as many rows of each, in batches of as many as in training.
    """
    found = {}
    with _restored(point) as (ready, params):
        for length in lengths:
            task = ready.cfg.task.replace(length=length, train_rows=1)
            cfg = ready.cfg.replace(task=task, seq_len=task.seq_len)
            found[length] = evaluation.evaluate(dataclasses.replace(ready, cfg=cfg, data=task.own_data()), params)
    return found


@contextlib.contextmanager
def _restored(point: Point) -> Iterator[tuple[setup.Setup, Any]]:
    """The run of a point, ready, and its parameters, on the run's mesh."""
    cfg = experiment.from_dict(point.result.config)
    with tempfile.TemporaryDirectory() as folder:
        ready = setup.prepare(cfg, folder)
        params, _ = restore.restore_params(point.folder, ready.plan.abstract.params, average=cfg.ema.in_use)
        with jax.set_mesh(ready.mesh):
            yield ready, params
