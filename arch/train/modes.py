"""What `run.py` does in each mode. Errors about the input end in one line, before anything long starts."""

import contextlib
import json
import pathlib
from typing import Any

import jax

from arch import tree
from arch.data import conversations, tokenizer
from arch.decode import generate as decoding
from arch.train import (
    capacity,
    connection,
    consent,
    evaluation,
    experiment,
    guard,
    initial,
    library,
    lock,
    loop,
    restore,
    setup,
    start,
)
from arch.train import verify as verification
from arch.train.command_line import one_line_errors
from arch.train.startup import Startup
from arch.weights import target
from arch.weights.export import export as write_published


def train(
    cfg: experiment.Config, workdir: str, overrides: dict, startup: Startup, hparams: dict | None = None
) -> dict[str, float]:
    """`--mode=train`: trains, or goes on training; as a sweep's point, with what the sweep varies as `hparams`.

    Returns:
      The metrics of the evaluation at the end; {} if a signal came before it was done.
    """
    setup.take_turns(cfg)
    with contextlib.ExitStack() as stack:
        with one_line_errors(ValueError, OSError):
            if jax.process_index() == 0:
                setup.check_writable(pathlib.Path(workdir))
                stack.enter_context(lock.held(workdir))
            ready = setup.prepare(cfg, workdir)
            capacity.state_must_fit(ready.cfg.model, ready.plan, ready.mesh)
        startup.mark("setup")
        own = guard.BadBatchError, start.StartError, connection.DisconnectedError, consent.FailedError
        with one_line_errors(OSError, *own):
            return loop.train(ready, overrides, startup, hparams)


def evaluate(cfg: experiment.Config, workdir: str) -> None:
    """`--mode=eval`: the validation loss of the newest checkpoint (of `eval_batches`), as one line of JSON.

    Before the first checkpoint it is that of the published model at `init_from`, all of the text being validation.
    """
    with one_line_errors(ValueError, OSError):
        published = _starts_published(cfg, workdir)
        if not published:
            restore.find(workdir)
        ready = setup.prepare(cfg, workdir, all_valid=published)
        abstract, step = ready.plan.abstract.params, 0
        if published:
            params = initial.of_run(cfg, abstract)
        else:
            params, extra = restore.restore_params(workdir, abstract, average=cfg.ema.in_use)
            step = extra["position"]["step"]
    with jax.set_mesh(ready.mesh):
        metrics = evaluation.evaluate(ready, params)
    if jax.process_index() == 0:
        print(json.dumps({"step": step} | metrics))


def generate(
    cfg: experiment.Config | None,
    workdir: str,
    prompts: list[str],
    *,
    max_new_tokens: int,
    temperature: float | None,
    print_ids: bool,
    chat: bool,
) -> None:
    """`--mode=generate`: continues the prompts with the newest checkpoint, or `init_from`; prints texts or ids.

    Args:
      cfg: None to take the run's own; given, it must not contradict the run.
      workdir: the run.
      prompts: texts, each continued by itself.
      max_new_tokens: 0 for the config's number.
      temperature: None for the config's.
      print_ids: the new tokens' ids, a line a prompt, instead of prompt and text.
      chat: each prompt is what a user says to a chat model; its answer is printed.
    """
    with one_line_errors(ValueError, OSError):
        model, params, words = _trained(cfg, workdir)
        setup.must_predict(model.cfg)
        cfg = library.load_config(workdir) if cfg is None else cfg
        ids = [_chat(words, prompt, cfg.data.kind) if chat else words.prompt(prompt) for prompt in prompts]
        how = cfg.sample.replace(
            max_new_tokens=max_new_tokens or cfg.sample.max_new_tokens,
            temperature=cfg.sample.temperature if temperature is None else temperature,
        )
        decoding.must_fit(model.cfg, ids, how)
    key = jax.random.key(cfg.seed)
    for prompt, new in zip(ids, decoding.generate(model, params, ids, how, key=key, stop=words.stop)):
        print(" ".join(map(str, new)) if print_ids else words.decode(new if chat else prompt + new))


def export(cfg: experiment.Config | None, workdir: str, folder: str, *, family: str, verify: bool) -> None:
    """`--mode=export`: writes the newest checkpoint, or `init_from`, as a folder that transformers reads.

    Args:
      cfg: as in `generate`.
      workdir: the run.
      folder: new or empty.
      family: the file of arch/families in whose form to write; '' for that of `init_from`, else the plainest that can.
      verify: also print how far transformers' logits of what was written are from ours.
    """
    with one_line_errors(ValueError, OSError):
        if verify:
            verification.interpreter()  # before anything is written
        model, params, words = _trained(cfg, workdir)
        cfg = library.load_config(workdir) if cfg is None else cfg
        write_published(model.cfg, params, folder, family=family or initial.family(cfg.init_from))
        if isinstance(words, tokenizer.Subwords):  # raw bytes have no file that others read
            words.save(folder)
        if verify:
            _print_difference(model, params, folder)


def verify(cfg: experiment.Config) -> None:
    """`--verify`: prints how far transformers' logits of the published checkpoint at `init_from` are from ours."""
    with one_line_errors(ValueError, OSError):
        if not initial.is_published(cfg.init_from):
            raise ValueError(f"--verify needs a published checkpoint in config.init_from={cfg.init_from!r}")
        verification.interpreter()
        model = cfg.model.make()
        params = initial.of_run(cfg, target.canonical(cfg.model))
        _print_difference(model, params, cfg.init_from)


def _print_difference(model: Any, params: tree.Tree, path: str) -> None:
    print(f"largest difference of a logit from transformers': {verification.difference(model, params, path):.3g}")


def _starts_published(cfg: experiment.Config | None, workdir: str) -> bool:
    """Whether the parameters are still those of a published checkpoint."""
    return cfg is not None and initial.is_published(cfg.init_from) and not setup.started(pathlib.Path(workdir))


def _trained(cfg: experiment.Config | None, workdir: str) -> tuple[Any, tree.Tree, tokenizer.Tokenizer]:
    """The run's model, its parameters in canonical form, and its tokenizer."""
    if _starts_published(cfg, workdir):
        params = initial.of_run(cfg, target.canonical(cfg.model))
        return cfg.model.make(), params, cfg.data.tokenizer.make(())
    model, params = library.load(workdir)
    if cfg is not None:
        setup.check_same(cfg, workdir)
    return model, params, library.load_tokenizer(workdir)


def _chat(words: tokenizer.Tokenizer, prompt: str, kind: str) -> list[int]:
    if kind != "chat" and not conversations.has_template(words):
        raise ValueError(f"--chat needs a chat model, published or trained with data.kind='chat', and not {kind!r}")
    return conversations.question(words, prompt)
