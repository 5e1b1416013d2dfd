"""Hyena's associative recall at length: which mixers recall a key's value in rows that are much longer than their map.

Source:    Poli et al., Hyena Hierarchy, 2023, arXiv 2302.10866, sec. 4.1 and table 4.2; what the paper does not say of
           `paper` is that of its released code (HazyResearch/safari, configs/experiment/synthetics/associative_recall)
Data:      drawn: arch/tasks/associative_recall.py
Commands:  experiments/hyena_recall/README.md has them, and what they gave
Hardware:  2 CPU cores; of `paper` an accelerator

Options, as in `config.py:small,mixer=mamba,length=512`: size is one of SIZES, mixer one of MIXERS, length one of those
of the size.
"""

from arch import hyper
from arch.tasks import associative_recall
from arch.train import experiment, optimizer
from experiments import options

EMBED_DIM = 64
HIDDEN_DIM = 4 * EMBED_DIM
SIZES = {
    "small": dict(
        lengths=("128", "512"), start=0.5, dropout=0.0, rate=3e-3,
        run=dict(total_steps=1000, batch_size=8),
    ),
    "paper": dict(
        lengths=("30000",), start=0.02, dropout=0.1, rate=5e-4,
        run=dict(total_epochs=400.0, batch_size=32),
    ),
}  # fmt: skip
"""`lengths` are of the pairs together; what asks and the key follow."""
LENGTHS = tuple(length for size in SIZES.values() for length in size["lengths"])
MIXERS = {
    "hyena": dict(filter_dim=64, bands=2, frequency=10.0),
    "attention": dict(num_heads=1, head_dim=EMBED_DIM, position=dict(name="none"), bias="all"),
    "rwkv4": dict(),
    "s4d": dict(),
    "mamba": dict(inner_dim=2 * EMBED_DIM),
}


def task(length):
    """Rows of so many symbols, in keys and their values."""
    return associative_recall.Config(
        vocab_size=30, pairs=int(length) // 2, train_rows=4000, valid_rows=500, loss_of="row"
    )


def get_config(arg=""):
    """The run's config; see the file's head for the options in `arg`."""
    size = SIZES[options.parse(arg, size=SIZES, mixer=MIXERS, length=LENGTHS).size]
    given = options.parse(arg, size=SIZES, mixer=MIXERS, length=size["lengths"])
    rows, attends = task(given.length), given.mixer == "attention"
    mixer = dict(name=given.mixer) | MIXERS[given.mixer]
    mixer |= dict(dropout=size["dropout"]) if attends else {}
    mixer |= dict(max_length=rows.seq_len) if given.mixer == "hyena" else {}
    channels = dict(name="mlp", hidden_dim=HIDDEN_DIM, bias=True)
    if given.mixer == "rwkv4":
        channels = dict(name="channel_mix", hidden_dim=HIDDEN_DIM, gated=True)
    norm, start = dict(kind="layer", bias=True), dict(stddev=size["start"])
    return experiment.config_dict(
        model=dict(
            name="decoder",
            vocab_size=rows.vocab_size,
            embed_dim=EMBED_DIM,
            embedding=start,
            position=dict(name="learned", length=rows.seq_len) | start if attends else dict(name="none"),
            layers=dict(pattern=(dict(sublayers=(mixer, channels), norm=norm),), repeats=2),
            norm=norm,
            dropout=size["dropout"],
        ),
        task=rows,
        seq_len=rows.seq_len,
        log_every_percent=5.0,
        eval_every_percent=10.0,
        optimizer=dict(
            learning_rate=size["rate"],
            rate_shape="linear",
            final_share=0.0,
            warmup_percent=10.0,
            b2=0.999,
            no_decay=(*optimizer.Config().no_decay, "hyena/filter/"),
        ),
        **size["run"],
    )


def sweep(arg):
    """For `--mode=sweep`: each mixer at each length of the size."""
    lengths = SIZES[options.parse(arg, size=SIZES, mixer=MIXERS, length=LENGTHS).size]["lengths"]
    return hyper.sweep("arg", [f"mixer={mixer},length={length}" for mixer in MIXERS for length in lengths])
