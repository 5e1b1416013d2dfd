"""What a window of attention costs in quality: the same model with windows from 2 to all tokens.

Sources:   Beltagy et al., Longformer, 2020, arXiv 2004.05150, sec. 3.1; Jiang et al., Mistral 7B, 2023,
           arXiv 2310.06825, sec. 2
Text:      the Python standard library's own source, 7 MB, as bytes
Commands:  experiments/window_quality/README.md has them, and what they gave
Hardware:  2 CPU cores

Options, as in `config.py:small,window=16`: there is one size; window is one of WINDOWS, 0 for none.
"""

from arch import hyper
from arch.train import experiment
from experiments import options

WINDOWS = ("2", "8", "32", "0")


def get_config(arg=""):
    """The run's config; see the file's head for the options in `arg`."""
    window = int(options.parse(arg, size=["small"], window=WINDOWS).window)
    attention = dict(name="attention", num_heads=4, head_dim=16, window=window)
    block = dict(sublayers=(attention, dict(name="mlp", hidden_dim=256)))
    return experiment.config_dict(
        model=dict(name="decoder", vocab_size=264, embed_dim=64, layers=dict(pattern=(block,), repeats=2)),
        optimizer=dict(learning_rate=4e-3, warmup_percent=10.0),
        total_steps=2000,
        batch_size=16,
        seq_len=128,
        log_every_percent=5.0,
        eval_every_percent=20.0,
        eval_batches=32,
    )


def sweep():
    """For `--mode=sweep`: each window with two seeds."""
    return hyper.product([hyper.sweep("seed", [0, 1]), hyper.sweep("arg", [f"window={window}" for window in WINDOWS])])
