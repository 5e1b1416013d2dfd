"""What else a trained point is worth: its validation loss on rows of other lengths than it was trained on."""

import dataclasses
import tempfile
from collections.abc import Iterable

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
    cfg = experiment.from_dict(point.result.config)
    with tempfile.TemporaryDirectory() as folder:
        ready, found = setup.prepare(cfg, folder), {}
        params, _ = restore.restore_params(point.folder, ready.plan.abstract.params, average=cfg.ema.in_use)
        for length in lengths:
            batches = max(1, tokens // (cfg.batch_size * length))
            other = ready.cfg.replace(seq_len=length, eval_batches=batches)
            with jax.set_mesh(ready.mesh):
                found[length] = evaluation.evaluate(dataclasses.replace(ready, cfg=other), params)
    return found
