"""What a run's model is worth at a step: its task's means over the validation split, and a sample of its text."""

import operator

import jax

from arch.data import conversations, dataset
from arch.decode.generate import generate
from arch.sharding import mesh as meshes
from arch.train.objective import summary
from arch.train.setup import Setup


def evaluate(setup: Setup, params, *, heed=lambda: None) -> dict[str, float]:
    """What the run's task makes of the validation split.

    Args:
      setup: the run.
      params: the model's parameters, on the run's mesh.
      heed: called between batches, to raise at a signal.

    Returns:
      `eval/valid/<metric>`, the metrics being those of `objective.summary`; of a mixture also `eval/<source>/<metric>`.
    """
    step, metrics = setup.eval_step, {}
    for name, batches in setup.evaluated.items():
        sums = None
        for index in range(min(len(batches), setup.cfg.eval_batches or len(batches))):
            heed()
            batch = meshes.global_batch(dataset.without_ids(batches[index]), setup.mesh)
            part = jax.tree.map(float, step(params, batch))
            sums = part if sums is None else jax.tree.map(operator.add, sums, part)
        metrics |= {f"eval/{name}/{metric}": value for metric, value in summary(setup.cfg.task, sums).items()}
    return metrics


def sample_text(setup: Setup, params, prompt: str) -> str:
    """The prompt, of a run on conversations as what a user says, and what the model makes of it."""
    tokenizer = setup.data.tokenizer
    chat = setup.cfg.data.kind == "chat"
    ids = conversations.question(tokenizer, prompt) if chat else tokenizer.prompt(prompt)
    key = jax.random.key(setup.cfg.seed)
    (new,) = generate(setup.model, params, [ids], setup.cfg.sample, key=key, stop=tokenizer.stop)
    return tokenizer.decode(ids + new)
