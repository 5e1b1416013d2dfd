"""The door for library users: a trained model as a module and a tree, without a run around it."""

from typing import Any

from arch import config, tree
from arch.data import tokenizer as tokenizers
from arch.train import experiment, restore


def load(path) -> tuple[Any, tree.Tree]:
    """The model of a workdir or checkpoint, and its parameters (their moving average, if the run's config uses it).

        model, params = arch.load("runs/demo")
        logits = model.apply({"params": params}, tokens).x

    Args:
      path: a workdir, its folder of checkpoints, or the folder of one step.

    Returns:
      The Linen module (its config is `model.cfg`), and its parameters in canonical form (`layers/3/attention/query`) on
      this process's first device.

    Raises:
      CheckpointError: there is no whole checkpoint at `path`.
    """
    step = restore.find(path)
    cfg = _config_of(restore.read_record(step)["extra"])
    params, _ = restore.restore_step(step, None, restore.AVERAGE if cfg.ema.in_use else restore.PARAMS)
    return cfg.model.make(), tree.unstack(params)


def load_tokenizer(path) -> tokenizers.Tokenizer:
    """The tokenizer of the run that `path` (as in `load`) belongs to."""
    cfg = load_config(path).data.tokenizer
    return tokenizers.saved(restore.find(path).parents[1] / "data", cfg.kind, cfg.separator)


def load_config(path) -> experiment.Config:
    """The config of the run that `path` (as in `load`) belongs to, as its newest checkpoint has it."""
    return _config_of(restore.read_record(restore.find(path))["extra"])


def _config_of(extra: dict) -> experiment.Config:
    version = extra["config_format_version"]
    if version > config.FORMAT_VERSION:
        raise ValueError(
            f"config_format_version={version} must be at most {config.FORMAT_VERSION}: a newer arch wrote this"
        )
    return experiment.from_dict(extra["config"])
