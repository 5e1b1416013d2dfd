"""Which mixers learn to look back: associative recall and the induction head's task, two layers, each mixer once.

Source:    Fu et al., Hungry Hungry Hippos, 2022, arXiv 2212.14052, sec. 3.1 and table 1; rows, widths, rates and epochs
           of `paper` are those of its released code (HazyResearch/safari, configs/experiment/synthetics).
Data:      drawn: arch/tasks/associative_recall.py, arch/tasks/induction_head.py.
Commands:  experiments/recall_and_induction/README.md has them, and what they gave
Hardware:  2 CPU cores

Options, as in `config.py:small,mixer=mamba,task=recall`: size is one of SIZES, mixer one of MIXERS, task one of TASKS.
"""

from arch import hyper
from arch.tasks import associative_recall, induction_head
from arch.train import experiment
from experiments import options

EMBED_DIM = 32
HIDDEN_DIM = 4 * EMBED_DIM
CHUNK = dict(chunk=32)
"""A row is one chunk."""

TASKS = {
    "recall": associative_recall.Config(),
    "induction": induction_head.Config(),
}

MIXERS = {
    "attention": dict(num_heads=1, head_dim=32, position=dict(name="none"), bias="all"),
    "linear_attention": dict(num_heads=1, head_dim=32) | CHUNK,
    "performer": dict(num_heads=1, head_dim=32, num_features=128) | CHUNK,
    "retention": dict(num_heads=2, head_dim=16) | CHUNK,
    "gated_linear_attention": dict(num_heads=2, head_dim=8) | CHUNK,
    "rwkv4": dict(),
    "rwkv7": dict(num_heads=2, head_dim=16, decay_rank=16, rate_rank=16, gate_rank=16),
    "gated_delta_net": dict(num_heads=2, key_dim=16, value_dim=32) | CHUNK,
    "mamba": dict(inner_dim=64),
    "mamba2": dict(num_heads=4, head_dim=16, state_dim=32) | CHUNK,
    "rg_lru": dict(inner_dim=44, num_heads=2),
    "s4d": dict(),
    "hyena": dict(max_length=32),
}
"""Widths as their papers have them in proportion to embed_dim, where they say so."""

UNORDERED = ("attention", "linear_attention", "performer")
"""Mixers to which all orders are alike: they get learned positions, as attention has them in the paper."""

ADAM = dict(b2=0.999, warmup_percent=10.0)
LINEAR = dict(rate_shape="linear", final_share=0.0)
SIZES = {
    "small": {task: dict(total_steps=800, optimizer=ADAM | dict(learning_rate=3e-3)) for task in TASKS},
    "paper": {
        "recall": dict(total_epochs=200.0, optimizer=ADAM | LINEAR | dict(learning_rate=5e-4)),
        "induction": dict(total_epochs=400.0, optimizer=ADAM | dict(learning_rate=5e-4)),
    },
}
"""How long, and at which rates."""


def get_config(arg=""):
    """The run's config; see the file's head for the options in `arg`."""
    given = options.parse(arg, size=SIZES, mixer=MIXERS, task=TASKS)
    paper, task = given.size == "paper", TASKS[given.task]
    dropout, start = (0.1, dict()) if paper else (0.0, dict(stddev=0.5))
    mixer = dict(name=given.mixer) | MIXERS[given.mixer]
    mixer |= dict(dropout=dropout) if given.mixer == "attention" else {}
    channels = dict(name="mlp", hidden_dim=HIDDEN_DIM, bias=True)
    if given.mixer.startswith("rwkv"):
        channels = dict(name="channel_mix", hidden_dim=HIDDEN_DIM, gated=given.mixer == "rwkv4")
    norm = dict(kind="layer", bias=True)
    position = dict(name="learned", length=task.seq_len) | start
    return experiment.config_dict(
        model=dict(
            name="decoder",
            vocab_size=task.vocab_size,
            embed_dim=EMBED_DIM,
            embedding=start,
            position=position if given.mixer in UNORDERED else dict(name="none"),
            layers=dict(pattern=(dict(sublayers=(mixer, channels), norm=norm),), repeats=2),
            norm=norm,
            dropout=dropout,
        ),
        task=task.replace(loss_of="row" if paper else "answer"),
        batch_size=32,
        seq_len=task.seq_len,
        log_every_steps=100,
        eval_every_percent=20.0,
        **SIZES[given.size][given.task],
    )


def sweep():
    """For `--mode=sweep`: each mixer on each task."""
    return hyper.sweep("arg", [f"mixer={mixer},task={task}" for task in TASKS for mixer in MIXERS])
