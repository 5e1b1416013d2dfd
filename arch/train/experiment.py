"""The config of a training run: what every file in `configs/` fills in."""

from collections.abc import Callable
from typing import Any

from arch import config
from arch.data import dataset
from arch.decode import generate
from arch.layers import token_loss
from arch.sharding import mesh as meshes
from arch.tasks import next_token
from arch.train import bad_batch as bad_batches
from arch.train import checkpoint, duration, profiling
from arch.train import ema as averages
from arch.train import loss_scale as loss_scales
from arch.train import optimizer as optimizers


INTERVALS = ("log_every", "eval_every", "checkpoint_every")
LOG_EVERY_STEPS = 10


@config.frozen
class Config(config.Config):
    """A run. Its length and intervals are given in one of the units of `arch.train.duration`, the others being 0.

    Attributes:
      model: the architecture.
      task: what it learns.
      total_steps, total_tokens, total_examples, total_epochs: how long it trains.
      batch_size: rows of a step, over all devices.
      seq_len: tokens of a row.
      seed: of parameters, data order, dropout and samples.
      micro_batches: parts of a batch that follow each other to save memory; a divisor of batch_size.
      log_every_...: between lines of metrics; 10 steps when none is set.
      eval_every_...: between evaluations; one at the end when none is set.
      eval_batches: batches of an evaluation; 0 for all of the validation split.
      checkpoint_every_...: between checkpoints; one at the end when none is set.
      histogram_every_steps: between histograms of parameters and updates; 0 for none.
      watch_seconds: without progress after which the log names the process that is stuck, and in what; 0 for never.
      sample_prompt: text that the sample at each evaluation continues; '' for no samples.
      init_from: workdir or checkpoint whose parameters a fresh run starts from.
      upcycle: that is of a dense model, whose ffns become the experts of this one's mixtures; it begins with its loss.
      upcycle_noise: standard deviation of what is added to these experts, as a share of that of each of their matrices.
      replay: file of training samples' routes (`arch.train.routes`), for routers of that name; evaluations route anew.
      resume: workdir or checkpoint whose whole state a fresh run starts from.
    """

    model: config.choice("models")
    task: config.choice("tasks") = next_token.Config()
    total_steps: config.NonNegativeInt = 0
    total_tokens: config.NonNegativeInt = 0
    total_examples: config.NonNegativeInt = 0
    total_epochs: config.NonNegativeFloat = 0.0
    batch_size: config.PositiveInt
    seq_len: config.PositiveInt
    seed: config.NonNegativeInt = 0
    micro_batches: config.PositiveInt = 1
    log_every_steps: config.NonNegativeInt = 0
    log_every_tokens: config.NonNegativeInt = 0
    log_every_examples: config.NonNegativeInt = 0
    log_every_epochs: config.NonNegativeFloat = 0.0
    log_every_percent: config.Percent = 0.0
    eval_every_steps: config.NonNegativeInt = 0
    eval_every_tokens: config.NonNegativeInt = 0
    eval_every_examples: config.NonNegativeInt = 0
    eval_every_epochs: config.NonNegativeFloat = 0.0
    eval_every_percent: config.Percent = 0.0
    eval_batches: config.NonNegativeInt = 0
    checkpoint_every_steps: config.NonNegativeInt = 0
    checkpoint_every_tokens: config.NonNegativeInt = 0
    checkpoint_every_examples: config.NonNegativeInt = 0
    checkpoint_every_epochs: config.NonNegativeFloat = 0.0
    checkpoint_every_percent: config.Percent = 0.0
    histogram_every_steps: config.NonNegativeInt = 0
    watch_seconds: config.NonNegativeFloat = 600.0
    sample_prompt: str = ""
    init_from: str = ""
    upcycle: bool = False
    upcycle_noise: config.NonNegativeFloat = 0.0
    replay: str = ""
    resume: str = ""
    data: dataset.Config = dataset.Config()
    mesh: meshes.Config = meshes.Config()
    loss: token_loss.Config = token_loss.Config()
    bad_batch: bad_batches.Config = bad_batches.Config()
    ema: averages.Config = averages.Config()
    loss_scale: loss_scales.Config = loss_scales.Config()
    optimizer: optimizers.Config = optimizers.Config()
    checkpoints: checkpoint.Config = checkpoint.Config()
    profile: profiling.Config = profiling.Config()
    sample: generate.Config = generate.Config()

    def check(self):
        for interval in INTERVALS:
            duration.unit(self, interval)
        if not duration.unit(self, "total"):
            raise ValueError(
                "total_steps=0 must be at least 1, or one of total_tokens, total_examples, total_epochs must be set"
            )
        if self.batch_size % self.micro_batches:
            raise ValueError(f"batch_size={self.batch_size} must be a multiple of micro_batches={self.micro_batches}")
        if self.init_from and self.resume:
            raise ValueError(f"init_from={self.init_from!r} and resume={self.resume!r}: only one may be given")
        if self.upcycle and not self.init_from:
            raise ValueError("init_from='' must name a dense model with upcycle=True")
        if self.upcycle_noise and not self.upcycle:
            raise ValueError(f"upcycle_noise={self.upcycle_noise} must be 0 with upcycle=False")

    @property
    def first_loss_scale(self) -> float:
        """The loss scale to begin with: there is one where the model computes in float16; else 0."""
        return self.loss_scale.initial if getattr(self.model, "dtype", "") == "float16" else 0.0

    def resolve(self, epoch_examples: Callable[[], int]) -> "Config":
        """The same run with all lengths in steps.

        Args:
          epoch_examples: gives the rows of an epoch; called only where a length is in epochs.
        """
        sizes = dict(batch_size=self.batch_size, seq_len=self.seq_len, epoch_examples=epoch_examples)
        cfg = duration.resolve(self, "total", **sizes)
        sizes["total_steps"] = cfg.total_steps
        for interval in INTERVALS:
            cfg = duration.resolve(cfg, interval, **sizes)
        cfg = cfg.replace(log_every_steps=cfg.log_every_steps or LOG_EVERY_STEPS)
        return cfg.replace(optimizer=duration.resolve(cfg.optimizer, "warmup", **sizes))


FIXED = ("model", "task", "data", "seed", "batch_size", "seq_len")
"""Fields that a run keeps when it resumes: they decide what its parameters and its data order are."""

FREE = ("dtype", "remat", "dropout", "split", "pipeline", "micro_batches", "rounds", "schedule")
"""Leaves of the model that may change all the same."""


LATER = (
    *(f"{length}_" for length in ("total", *INTERVALS, "histogram_every")),
    *("mesh.", "checkpoints.", "profile.", "watch_seconds"),
)
"""Beginnings of the leaves that may change behind a run's end: no number that it has written is another for them."""


def config_dict(**fields):
    """The `ml_collections.ConfigDict` of a run, every leaf present: what `get_config` returns."""
    return config.config_dict(Config, fields)


def from_dict(tree: Any) -> Config:
    """The frozen config of a run. Raises ConfigError as `config.from_dict` does."""
    return config.from_dict(Config, tree)
