"""Multi-query associative recall (MQAR): which mixers recall several keys, at which width.

Source:    Arora et al., Zoology, 2023, arXiv 2312.04927, figure 2 and app. E; numbers of `paper` are those of its
           released code (HazyResearch/zoology)
Data:      drawn: arch/tasks/multi_query_recall.py
Commands:  experiments/multi_query_recall/README.md has them, and what they gave
Hardware:  2 CPU cores; of `paper` an accelerator

Options, as in `config.py:small,mixer=hyena,width=16`: size is one of SIZES, mixer one of MIXERS, width one of those of
the size.
"""

import numpy as np

from arch import config, hyper
from arch.tasks import multi_query_recall
from arch.train import experiment
from experiments import options

SIZES = {
    "small": dict(
        widths=("16", "64"),
        rates=(10 ** (-8 / 3),),
        task=multi_query_recall.Config(vocab_size=66, train_rows=64 * 1000, valid_rows=500),
        run=dict(total_steps=1000, batch_size=64),
    ),
    "paper": dict(
        widths=("64", "128", "256", "512"),
        rates=tuple(map(float, np.logspace(-4, -2, 4))),
        task=multi_query_recall.Config(length=256, pairs=16, train_rows=100_000, valid_rows=3000),
        run=dict(total_epochs=64.0, batch_size=256),
    ),
}
MIXERS = ("attention", "hyena", "mamba")


def get_config(arg=""):
    """The run's config; see the file's head for the options in `arg`."""
    widths = dict.fromkeys(width for size in SIZES.values() for width in size["widths"])
    given = options.parse(arg, size=SIZES, mixer=MIXERS, width=widths)
    size, width = SIZES[given.size], int(given.width)
    if given.width not in size["widths"]:
        raise config.ConfigError(f"option width={width} must be one of {', '.join(size['widths'])}")
    task, ordered = size["task"], given.mixer != "attention"
    own = {
        "attention": dict(num_heads=1, head_dim=width, position=dict(name="none"), dropout=0.1),
        "hyena": dict(max_length=task.length),
        "mamba": dict(inner_dim=2 * width),
    }[given.mixer]
    return experiment.config_dict(
        model=dict(
            name="decoder",
            vocab_size=task.vocab_size,
            embed_dim=width,
            position=dict(name="none") if ordered else dict(name="learned", length=task.seq_len),
            layers=dict(pattern=(dict(sublayers=(dict(name=given.mixer) | own,)),), repeats=2),
        ),
        task=task,
        seq_len=task.seq_len,
        log_every_percent=5.0,
        eval_every_percent=20.0,
        optimizer=dict(learning_rate=size["rates"][0], warmup_percent=10.0, weight_decay=0.1),
        **size["run"],
    )


def sweep(arg):
    """For `--mode=sweep`: each mixer at each width and rate of the size."""
    size = SIZES[config.parse_arg(arg, size="small", mixer="", width="").size]
    each = [f"mixer={mixer},width={width}" for mixer in MIXERS for width in size["widths"]]
    return hyper.product([hyper.sweep("arg", each), hyper.sweep("optimizer.learning_rate", size["rates"])])
