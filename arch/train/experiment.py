"""The config of a training run: what every file in `configs/` fills in."""

from typing import Any

from arch import config
from arch.data import dataset
from arch.decode import generate
from arch.sharding import mesh as meshes
from arch.train import checkpoint, objective
from arch.train import optimizer as optimizers


@config.frozen
class Config(config.Config):
    """A run.

    Attributes:
      model: the architecture.
      total_steps: optimizer steps.
      batch_size: rows of a step, over all devices.
      seq_len: tokens of a row.
      seed: of parameters, data order, dropout and samples.
      micro_batches: parts of a batch that follow each other to save memory; a divisor of batch_size.
      log_every_steps: between lines of metrics.
      eval_every_steps: between evaluations; 0 for one at the end.
      eval_batches: batches of an evaluation; 0 for all of the validation split.
      checkpoint_every_steps: between checkpoints; 0 for one at the end.
      sample_prompt: text that the sample at each evaluation continues; '' for no samples.
      init_from: workdir or checkpoint whose parameters a fresh run starts from.
      resume: workdir or checkpoint whose whole state a fresh run starts from.
    """

    model: config.choice("models")
    total_steps: config.PositiveInt
    batch_size: config.PositiveInt
    seq_len: config.PositiveInt
    seed: config.NonNegativeInt = 0
    micro_batches: config.PositiveInt = 1
    log_every_steps: config.PositiveInt = 10
    eval_every_steps: config.NonNegativeInt = 0
    eval_batches: config.NonNegativeInt = 0
    checkpoint_every_steps: config.NonNegativeInt = 0
    sample_prompt: str = ""
    init_from: str = ""
    resume: str = ""
    data: dataset.Config = dataset.Config()
    mesh: meshes.Config = meshes.Config()
    loss: objective.Config = objective.Config()
    optimizer: optimizers.Config = optimizers.Config()
    checkpoints: checkpoint.Config = checkpoint.Config()
    sample: generate.Config = generate.Config()

    def check(self):
        if self.batch_size % self.micro_batches:
            raise ValueError(f"batch_size={self.batch_size} must be a multiple of micro_batches={self.micro_batches}")
        if self.init_from and self.resume:
            raise ValueError(f"init_from={self.init_from!r} and resume={self.resume!r}: only one may be given")


FIXED = ("model", "data", "seed", "batch_size", "seq_len")
"""Fields that a run keeps when it resumes: they decide what its parameters and its data order are."""

FREE = ("dtype", "remat", "dropout")
"""Leaves of the model that may change all the same."""


def config_dict(**fields):
    """The `ml_collections.ConfigDict` of a run, every leaf present: what `get_config` returns."""
    return config.config_dict(Config, fields)


def from_dict(tree: Any) -> Config:
    """The frozen config of a run. Raises ConfigError as `config.from_dict` does."""
    return config.from_dict(Config, tree)
