"""What is saved of a bad batch.

    WORKDIR/bad_batches/step_123/report.json   what was wrong, what was done, sample ids and where they come from, norms
                                 batch.npz     the whole batch, of all processes, with its sample ids
                                 texts.txt     its tokens as text, a sample behind another, of pairs also the source
                                 config.json   the config of the run

report.json has the norms, by canonical path, of every module's output in the order of the forward pass, of the gradient
and of the parameters, all of the state before the batch, and the first of them that is no finite number. They are
computed for the report alone, the gradient as the step computes it, the outputs by a forward pass layer by layer. Where
the task's samples tell it, it has the origin of each: its documents, by their numbers in WORKDIR/data/train.offsets.npy
(of a mixture among those of its source).
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

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from arch import config, tree
from arch.data import dataset
from arch.layers import stack
from arch.layers.contract import Output
from arch.train.gradient import gradient_of, parts_of
from arch.train.objective import objective, totals
from arch.train.setup import Setup
from arch.train.state import TrainState
from arch.typing import Array, Float

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
        self._norms = Norms(setup)

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
            norms = self._norms(state, batch, self._key)
            studied |= {"first_nonfinite": first_nonfinite(norms, event.loss), "norms": norms}
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


class Norms:
    """The function (state, batch, key) -> norms by path of `activations`, `gradients` and `parameters`."""

    def __init__(self, setup: Setup):
        cfg = setup.cfg
        self._how = dict(task=cfg.task, loss=cfg.loss, micro_batches=cfg.micro_batches)
        self._model, self._cfg = unrolled(cfg.model).make(), cfg
        self._gradient = gradient_of(setup.model, setup.plan.trainable, **self._how)
        self._of_weights = jax.jit(self._weights)
        self._names: list[str] = []
        self._of_outputs = jax.jit(self._outputs)

    def __call__(self, state: TrainState, batch: dict[str, jax.Array], key) -> dict[str, dict[str, float]]:
        key = jax.random.fold_in(key, state.step)
        gradients, parameters = self._of_weights(state.params, batch, key, state.loss_scale)
        parts = [self._of_outputs(state.params, batch, key, i) for i in range(self._cfg.micro_batches)]
        outputs = [math.hypot(*map(float, values)) for values in zip(*parts)]
        return {
            "activations": dict(zip(self._names, outputs)),
            "gradients": {path: float(value) for path, value in gradients.items()},
            "parameters": {path: float(value) for path, value in parameters.items()},
        }

    def _weights(self, params, batch, key, scaling):
        gradients, _ = self._gradient(params, batch, key, scaling)
        return tuple(jax.tree.map(norm, tree.paths(tree.unstack(leaves))) for leaves in (gradients, params))

    def _outputs(self, params, batch, key, index):
        seen: dict[str, Array] = {}

        def record(call, args, kwargs, context):
            out = call(*args, **kwargs)
            leaves = jax.tree.leaves(out.x if isinstance(out, Output) else out)
            floats = [norm(leaf) for leaf in leaves if jnp.issubdtype(jnp.result_type(leaf), jnp.floating)]
            if floats:
                name = "/".join(context.module.path) or "model"
                name += "" if context.method_name == "__call__" else f".{context.method_name}"
                calls = sum(other.split(" ")[0] == name for other in seen)
                seen[f"{name} ({calls + 1})" if calls else name] = norm(jnp.stack(floats))
            return out

        part = jax.tree.map(lambda x: x[index], parts_of(batch, self._cfg.micro_batches))
        key = jax.random.fold_in(key, index)
        with nn.intercept_methods(record):
            objective(self._model, tree.unstack(params), part, totals(self._cfg.task, batch), key, **self._how)
        self._names = list(seen)
        return list(seen.values())


def unrolled(model_cfg: Any) -> Any:
    """The same model, for parameters in canonical form: its layers run one by one, and compute nothing twice."""
    stacks = {
        field.name: value.replace(remat="none")
        for field in dataclasses.fields(model_cfg)
        if isinstance(value := getattr(model_cfg, field.name), stack.Config)
    }
    return model_cfg.replace(**stacks)


def norm(x) -> Float[Array, ""]:
    """The square root of the sum of squares, in float32: infinite or NaN only if an entry is, not by squaring."""
    x = jnp.asarray(x, jnp.float32)
    largest = jnp.max(jnp.abs(x), initial=0.0)
    unit = jnp.where(largest > 0, largest, 1.0)
    return unit * jnp.sqrt(jnp.sum(jnp.square(x / unit)))


def first_nonfinite(norms: dict[str, dict[str, float]], loss: float) -> str:
    """The first that is no finite number, behind its kind; '' when there is none.

    Parameters come first, then outputs in the order of the forward pass, then the loss (of finite outputs: then targets
    or weights are to blame), then gradients from the last path to the first, as the backward pass goes.
    """
    named = {kind: [(f"{kind}: {path}", value) for path, value in each.items()] for kind, each in norms.items()}
    ordered = [*named["parameters"], *named["activations"], ("loss", loss), *reversed(named["gradients"])]
    return next((name for name, value in ordered if not math.isfinite(value)), "")


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
