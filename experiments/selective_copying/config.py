"""Selective copying: which mixers keep the letters of a row and pass over the noise between them.

Source:    Gu, Dao, Mamba, 2023, arXiv 2312.00752, sec. 4.1.1 and table 1
Data:      drawn: arch/tasks/selective_copying.py
Commands:  experiments/selective_copying/README.md has them, and what they gave
Hardware:  2 CPU cores; of `paper` an accelerator

Options, as in `config.py:small,mixer=mamba`: size is one of SIZES, mixer one of MIXERS.
"""

from arch import hyper
from arch.tasks import selective_copying
from arch.train import experiment
from experiments import options

SIZES = {
    "small": dict(
        width=32,
        task=selective_copying.Config(length=48, letters_copied=6, train_rows=32 * 2000),
        run=dict(total_steps=2000, batch_size=32, optimizer=dict(learning_rate=3e-3, warmup_percent=10.0)),
    ),
    "paper": dict(
        width=64,
        task=selective_copying.Config(train_rows=20_000),
        run=dict(total_steps=400_000, batch_size=64, optimizer=dict(learning_rate=1e-4, warmup_percent=1.0)),
    ),
}
MIXERS = ("s4d", "hyena", "mamba")


def get_config(arg=""):
    """The run's config; see the file's head for the options in `arg`."""
    given = options.parse(arg, size=SIZES, mixer=MIXERS)
    size = SIZES[given.size]
    width, task = size["width"], size["task"]
    own = {"s4d": {}, "hyena": dict(max_length=task.seq_len), "mamba": dict(inner_dim=2 * width)}[given.mixer]
    return experiment.config_dict(
        model=dict(
            name="decoder",
            vocab_size=task.vocab_size,
            embed_dim=width,
            layers=dict(pattern=(dict(sublayers=(dict(name=given.mixer) | own,)),), repeats=2),
        ),
        task=task,
        seq_len=task.seq_len,
        log_every_percent=5.0,
        eval_every_percent=20.0,
        **size["run"],
    )


def sweep():
    """For `--mode=sweep`: each mixer."""
    return hyper.sweep("arg", [f"mixer={name}" for name in MIXERS])
