"""What `run.py` does in each mode. Errors about the input end in one line, before anything long starts."""

import json

import jax

from arch.decode import generate as decoding
from arch.train import evaluation, experiment, library, loop, restore, setup, start
from arch.train.command_line import one_line_errors
from arch.train.startup import Startup


def train(cfg: experiment.Config, workdir: str, overrides: dict, startup: Startup) -> None:
    """`--mode=train`: trains, or goes on training."""
    with one_line_errors(ValueError, OSError):
        ready = setup.prepare(cfg, workdir)
    startup.mark("setup")
    with one_line_errors(OSError, loop.NonFiniteError, start.StartError):
        loop.train(ready, overrides, startup)


def evaluate(cfg: experiment.Config, workdir: str) -> None:
    """`--mode=eval`: the validation loss of the newest checkpoint (of `eval_batches`), as one line of JSON."""
    with one_line_errors(ValueError, OSError):
        restore.find(workdir)
        ready = setup.prepare(cfg, workdir)
        params, extra = restore.restore_params(workdir, ready.plan.abstract.params)
    with jax.set_mesh(ready.mesh):
        metrics = evaluation.evaluate(ready, params)
    if jax.process_index() == 0:
        print(json.dumps({"step": extra["position"]["step"]} | metrics))


def generate(
    cfg: experiment.Config | None,
    workdir: str,
    prompts: list[str],
    *,
    max_new_tokens: int,
    temperature: float | None,
    print_ids: bool,
) -> None:
    """`--mode=generate`: continues the prompts with the newest checkpoint; prints texts or ids.

    Args:
      cfg: None to take the run's own; given, it must not contradict the run.
      workdir: the run.
      prompts: texts, each continued by itself.
      max_new_tokens: 0 for the config's number.
      temperature: None for the config's.
      print_ids: the new tokens' ids, a line a prompt, instead of prompt and text.
    """
    with one_line_errors(ValueError, OSError):
        model, params = library.load(workdir)
        tokenizer = library.load_tokenizer(workdir)
        if cfg is None:
            cfg = library.load_config(workdir)
        else:
            setup.check_same(cfg, workdir)
        how = cfg.sample.replace(
            max_new_tokens=max_new_tokens or cfg.sample.max_new_tokens,
            temperature=cfg.sample.temperature if temperature is None else temperature,
        )
    ids = [[tokenizer.separator, *tokenizer.encode(prompt)] for prompt in prompts]
    key = jax.random.key(cfg.seed)
    for prompt, new in zip(prompts, decoding.generate(model, params, ids, how, key=key, stop=tokenizer.separator)):
        print(" ".join(map(str, new)) if print_ids else prompt + tokenizer.decode(new))
