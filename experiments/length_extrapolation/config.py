"""Training on short rows, reading long ones: ALiBi, rotary and sinusoidal positions in the same model.

Source:    Press, Smith, Lewis, Train Short, Test Long, 2021, arXiv 2108.12409, sec. 4.1 and figure 1
Text:      the Python standard library's own source, 7 MB, as bytes; of `paper` --config.data.path=WIKITEXT-103
Commands:  experiments/length_extrapolation/README.md has them, and what they gave
Hardware:  2 CPU cores; of `paper` an accelerator

Options, as in `config.py:small,position=rope`: size is one of SIZES, position one of POSITIONS.
"""

from arch import hyper
from arch.train import experiment
from experiments import options

POSITIONS = ("alibi", "rope", "sinusoidal")
SIZES = {
    "small": dict(
        width=64, heads=4, hidden=256, layers=2,
        run=dict(total_steps=400, batch_size=16, seq_len=64, eval_batches=8, optimizer=dict(learning_rate=4e-3)),
    ),
    "paper": dict(
        width=1024, heads=8, hidden=4096, layers=16,
        run=dict(total_epochs=205.0, batch_size=18, seq_len=512, optimizer=dict(learning_rate=1e-3)),
    ),
}  # fmt: skip


def get_config(arg=""):
    """The run's config; see the file's head for the options in `arg`."""
    given = options.parse(arg, size=SIZES, position=POSITIONS)
    size, added = SIZES[given.size], given.position == "sinusoidal"
    attention = dict(
        name="attention", num_heads=size["heads"], head_dim=size["width"] // size["heads"],
        position=dict(name="none" if added else given.position),
    )  # fmt: skip
    block = dict(sublayers=(attention, dict(name="mlp", hidden_dim=size["hidden"])))
    return experiment.config_dict(
        model=dict(
            name="decoder",
            vocab_size=264,
            embed_dim=size["width"],
            position=dict(name="sinusoidal" if added else "none"),
            layers=dict(pattern=(block,), repeats=size["layers"]),
        ),
        **size["run"],
    )


def sweep():
    """For `--mode=sweep`: each scheme with two seeds."""
    return hyper.product([hyper.sweep("arg", [f"position={name}" for name in POSITIONS]), hyper.sweep("seed", [0, 1])])
