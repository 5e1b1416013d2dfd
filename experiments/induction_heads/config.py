"""Mamba's induction heads: which mixers, trained on short rows, find what stood behind a sign in long ones.

Source:    Gu, Dao, Mamba, 2023, arXiv 2312.00752, sec. 4.1.2, app. E.1 and table 11
Data:      drawn: arch/tasks/induction_head.py
Commands:  experiments/induction_heads/README.md has them, and what they gave
Hardware:  2 CPU cores; of `paper` an accelerator

Options, as in `config.py:small,mixer=rope`: size is one of SIZES, mixer one of MIXERS, of which POSITIONS are attention
with these positions.
"""

from arch import hyper
from arch.tasks import induction_head
from arch.train import experiment
from experiments import options

POSITIONS = ("learned", "rope", "alibi")
MIXERS = ("mamba", "mamba2", *POSITIONS)
SYMBOLS = 17
"""Of the task: 15 letters, the sign, and one that it never draws."""


def powers(low, high):
    """Of two, from 2^low to 2^high."""
    return tuple(2**power for power in range(low, high + 1))


SIZES = {
    "small": dict(
        widths=dict(mamba=32, attention=64), heads=4, start=0.5,
        lengths=dict(mamba=powers(6, 10), attention=powers(6, 10)),
        task=induction_head.Config(vocab_size=SYMBOLS, length=64, train_rows=32 * 2000, valid_rows=256),
        run=dict(total_steps=2000, batch_size=32),
        rates=dict(mamba=3e-3, attention=3e-3),
        optimizer=dict(warmup_percent=10.0),
    ),
    "paper": dict(
        widths=dict(mamba=64, attention=128), heads=8, start=0.02,
        lengths=dict(mamba=powers(6, 20), attention=powers(6, 14)),
        task=induction_head.Config(vocab_size=SYMBOLS, length=256, train_rows=2**18, valid_rows=256),
        run=dict(total_steps=25 * 8192, batch_size=8),
        rates=dict(mamba=1e-3, attention=2e-4),
        optimizer=dict(rate_shape="constant"),
    ),
}  # fmt: skip
"""`lengths` are those of the rows that a trained model is asked about."""


def get_config(arg=""):
    """The run's config; see the file's head for the options in `arg`."""
    given = options.parse(arg, size=SIZES, mixer=MIXERS)
    size, kind = SIZES[given.size], kind_of(given.mixer)
    width, heads, task = size["widths"][kind], size["heads"], size["task"]
    table = dict(name="learned", length=max(size["lengths"][kind]) + 1, stddev=size["start"])
    added = given.mixer == "learned"
    attention = dict(num_heads=heads, head_dim=width // heads, position=dict(name="none" if added else given.mixer))
    own = {
        "mamba": dict(inner_dim=2 * width),
        "mamba2": dict(num_heads=width // 8, head_dim=16, state_dim=32),
    }  # fmt: skip
    mixer = dict(name="attention") | attention if kind == "attention" else dict(name=given.mixer) | own[given.mixer]
    return experiment.config_dict(
        model=dict(
            name="decoder",
            vocab_size=task.vocab_size,
            embed_dim=width,
            embedding=dict(stddev=size["start"]),
            position=table if added else dict(name="none"),
            layers=dict(pattern=(dict(sublayers=(mixer,)),), repeats=2),
        ),
        task=task,
        seq_len=task.seq_len,
        log_every_percent=5.0,
        eval_every_percent=20.0,
        optimizer=dict(learning_rate=size["rates"][kind], b2=0.999, weight_decay=0.0) | size["optimizer"],
        **size["run"],
    )


def kind_of(mixer):
    """Of a mixer, by which widths, rates and lengths are told apart: 'attention' or 'mamba'."""
    return "attention" if mixer in POSITIONS else "mamba"


def sweep():
    """For `--mode=sweep`: each mixer with two seeds."""
    return hyper.product([hyper.sweep("arg", [f"mixer={name}" for name in MIXERS]), hyper.sweep("seed", [0, 1])])
