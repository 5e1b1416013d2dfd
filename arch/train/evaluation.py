"""What a run's model is worth at a step: its task's means over the validation split, and a sample of its text."""

import operator
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from arch.data import dataset
from arch.decode.generate import generate
from arch.sharding import mesh as meshes
from arch.train import specialisation
from arch.train.objective import summary
from arch.train.setup import Setup


def evaluate(
    setup: Setup, params, *, heed=lambda: None, tell: Callable[[dict[str, Any]], None] = lambda routing: None
) -> dict[str, float]:
    """What the run's task makes of the validation split.

    Args:
      setup: the run.
      params: the model's parameters, on the run's mesh.
      heed: called between batches, to raise at a signal.
      tell: called with the `specialisation.tables` of the validation split; {} where there are no routers.

    Returns:
      `eval/valid/<metric>`, the metrics being those of `objective.summary`; of a mixture also `eval/<source>/<metric>`.
    """
    step, metrics, watched = setup.eval_step, {}, setup.watched
    for name, batches in setup.evaluated.items():
        sums = None
        for index in range(min(len(batches), setup.cfg.eval_batches or len(batches))):
            heed()
            batch = meshes.global_batch(dataset.without_ids(batches[index]), setup.mesh)
            part = jax.tree.map(_double, jax.device_get(step(params, batch, watched)))
            sums = part if sums is None else jax.tree.map(operator.add, sums, part)
        metrics |= {f"eval/{name}/{metric}": value for metric, value in summary(setup.cfg.task, sums).items()}
        if name == "valid":
            tell(specialisation.tables(sums["routing"], watched, lambda id: setup.data.tokenizer.decode([id])))
    return metrics


def _double(value: np.ndarray) -> float | np.ndarray:
    """For exact sums over many batches."""
    return np.asarray(value, np.float64) if np.ndim(value) else float(value)


def sample_text(setup: Setup, params, prompt: str) -> str:
    """The prompt, of a run on conversations as what a user says, and what the model makes of it."""
    tokenizer, ids = setup.data.tokenizer, setup.prompt(prompt)
    key = jax.random.key(setup.cfg.seed)
    (new,) = generate(setup.model, params, [ids], setup.cfg.sample, key=key, stop=tokenizer.stop)
    return tokenizer.decode(ids + new)
