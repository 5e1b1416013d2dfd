"""What a run's model is worth at a step: the loss over the validation split, and a sample of its text."""

import math

import jax

from arch.data import dataset
from arch.decode.generate import generate
from arch.sharding import mesh as meshes
from arch.train.setup import Setup


def evaluate(setup: Setup, params, *, heed=lambda: None) -> dict[str, float]:
    """Loss over the validation split.

    Args:
      setup: the run.
      params: the model's parameters, on the run's mesh.
      heed: called between batches, to raise at a signal.

    Returns:
      `eval/loss` in nats a token and `eval/bits_per_byte`.
    """
    data, step = setup.dataset("valid"), setup.eval_step
    sums = {"nats": 0.0, "tokens": 0.0, "bytes": 0.0}
    for index in range(min(len(data), setup.cfg.eval_batches or len(data))):
        heed()
        batch = meshes.global_batch(dataset.without_ids(data[index]), setup.mesh)
        sums = {name: sums[name] + float(part) for name, part in step(params, batch).items()}
    return {
        "eval/loss": sums["nats"] / max(sums["tokens"], 1.0),
        "eval/bits_per_byte": sums["nats"] / math.log(2.0) / max(sums["bytes"], 1.0),
    }


def sample_text(setup: Setup, params, prompt: str) -> str:
    """The prompt and what the model makes of it."""
    tokenizer = setup.data.tokenizer
    ids = tokenizer.prompt(prompt)
    key = jax.random.key(setup.cfg.seed)
    (new,) = generate(setup.model, params, [ids], setup.cfg.sample, key=key, stop=tokenizer.stop)
    return tokenizer.decode(ids + new)
