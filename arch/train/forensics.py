"""What is saved of a bad batch.

    WORKDIR/bad_batches/step_123/report.json   what was wrong, what was done, sample ids and where they come from, norms
                                 batch.npz     the whole batch, of all processes, with its sample ids
                                 texts.txt     its tokens as text, a sample behind another, of pairs also the source
                                 config.json   the config of the run

report.json has the norms, by canonical path, of every module's output in the order of the forward pass, of the gradient
and of the parameters, all of the state before the batch, and the first of them that is no finite number (`norms`). They
are computed for the report alone. Where the task's samples tell it, it has the origin of each: its documents, by their
numbers in WORKDIR/data/train.offsets.npy (of a mixture among those of its source).
Process 0 writes; it reads all rows of the batch again, which are a function of the step. A folder appears under its
name when it is whole. One that is there stays, and the run says so: the batch and the state before it are the same
again, unless the run has gone back to an earlier checkpoint with another config. Then remove the folder to have a new
one.
"""

import dataclasses
import json
import logging
import math
import os
import pathlib
import shutil
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from arch import config
from arch.data import dataset
from arch.train import norms
from arch.train.setup import Setup
from arch.train.state import TrainState

log = logging.getLogger("arch")


@dataclasses.dataclass(frozen=True)
class Event:
    """What was wrong.

    Attributes:
      step: whose batch it was, from 1.
      quantity: 'loss', 'gradient_norm' or 'parameter_norm'.
      kind: 'nonfinite' or 'spike'.
      value: of the quantity.
      threshold: above which it is a spike; infinite where none are looked for.
      action: 'save', 'skip' or 'stop'.
      loss: of the batch.
    """

    step: int
    quantity: str
    kind: str
    value: float
    threshold: float
    action: str
    loss: float


class Forensics:
    """Saves the bad batches of one run. `key` is the run's."""

    def __init__(self, setup: Setup, key):
        self._setup, self._key = setup, key
        self._root = setup.workdir / "bad_batches"
        self._norms = norms.Norms(setup)

    def save(self, event: Event, state: TrainState, batch: dict[str, jax.Array]) -> str:
        """Saves a batch, and returns what to say of it. To be called by all processes.

        Args:
          event: what was wrong.
          state: before the batch.
          batch: on the devices.
        """
        cfg, folder = self._setup.cfg.bad_batch, self._root / f"step_{event.step}"
        there = folder.exists()
        if not _agreed(not there and len([*self._root.glob("step_*")]) < cfg.max_saved):
            before = f"{folder} has been saved before, and stays"
            return before if there else f"not saved: bad_batch.max_saved={cfg.max_saved}"
        studied = {"parameters_of_step": int(state.step)}
        if cfg.layer_norms:
            found = self._norms(state, batch, self._key)
            studied |= {"first_nonfinite": norms.first_nonfinite(found, event.loss), "norms": found}
        if jax.process_index() == 0:
            self._write(folder, event, studied)
        return f"saved in {folder}"

    def _write(self, folder: pathlib.Path, event: Event, studied: dict) -> None:
        setup, cfg = self._setup, self._setup.cfg
        samples = cfg.task.samples(setup.data, "train", seq_len=cfg.seq_len, seed=cfg.seed)
        rows = dataset.make(samples, batch_size=cfg.batch_size)[event.step - 1]
        ids = rows["ids"].tolist()
        report = dataclasses.asdict(event) | {"sample_ids": ids}
        if hasattr(samples, "origin"):
            report["origins"] = [samples.origin(i) for i in ids]
        report |= studied
        partial = folder.with_name(f".{folder.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)  # of a run that was killed here
        partial.mkdir(parents=True)
        np.savez_compressed(partial / "batch.npz", **rows)
        (partial / "texts.txt").write_text(texts(rows, setup.data.tokenizer.decode), encoding="utf-8")
        for name, content in (("report", report), ("config", config.to_dict(cfg))):
            (partial / f"{name}.json").write_text(json.dumps(_plain(content), indent=2) + "\n", encoding="utf-8")
        os.replace(partial, folder)


def texts(rows: dict[str, np.ndarray], decode: Callable[[list[int]], str]) -> str:
    """What the samples of a batch say, without padding and, as `decode` drops them, special tokens."""
    masks = {"source": ("source_valid",), "tokens": ("valid", "segment_ids")}
    pieces = []
    for row, sample in enumerate(rows["ids"].tolist()):
        for field in (name for name in masks if name in rows):
            real = np.ones(rows[field][row].shape, bool)
            for mask in (name for name in masks[field] if name in rows):
                real &= rows[mask][row] > 0
            what = f" {field}" if "source" in rows else ""
            pieces.append(f"--- sample {sample}{what}\n{decode(rows[field][row][real].tolist())}\n")
    return "".join(pieces)


def _agreed(wanted: bool) -> bool:
    """What process 0 wants: the norms are computed by all together or not at all."""
    if jax.process_count() == 1:
        return wanted
    return bool(multihost_utils.broadcast_one_to_all(np.int32(wanted)))


def _plain(content: Any) -> Any:
    """The same for JSON, which knows no NaN: a number that is not finite is a text."""
    if isinstance(content, dict):
        return {key: _plain(value) for key, value in content.items()}
    return str(content) if isinstance(content, float) and not math.isfinite(content) else content
