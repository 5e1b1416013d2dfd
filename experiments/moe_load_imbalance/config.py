"""What keeps a mixture's experts in use: a top-1 mixture on real text without a balance loss, and with each remedy.

Source:    Shazeer et al., Outrageously Large Neural Networks, 2017, arXiv 1701.06538, sec. 4: without a balance loss
           the gate comes to choose the same few experts always. The remedies' sources are in arch/ops/routing.
Text:      the Python standard library's own source, 7 MB, as bytes.
Commands:  experiments/moe_load_imbalance/README.md has them, and what they gave
Hardware:  2 CPU cores

Options, as in `config.py:small,remedy=jitter`: there is one size; remedy is one of REMEDIES. Weights are published
ones, but for two. The variance is CV squared / E^2, so that its weight is Shazeer's 0.1 for CV squared times E^2. The
bias moves ten times as fast as DeepSeek-V3's 0.001, by which it could move 0.3 in all in so short a run.
"""

from arch import hyper
from arch.train import experiment
from experiments import options

NUM_EXPERTS = 8

DROPLESS = dict(
    name="moe", num_experts=NUM_EXPERTS, top_k=1, hidden_dim=64, renormalize=False, balance_weight=0.0, z_weight=0.0
)
SWITCH = dict(name="switch", capacity_factor=1.25, eval_capacity_factor=2.0)

REMEDIES = {
    "none": {},
    "f_dot_p": dict(balance_loss="f_dot_p", balance_weight=0.01),
    "variance": dict(balance_loss="variance", balance_weight=0.1 * NUM_EXPERTS**2),
    "z_loss": dict(z_weight=0.001),
    "jitter": dict(router=dict(name="top_k", jitter=0.01)),
    "drop_experts": dict(router=dict(name="top_k", drop_experts=0.1)),
    "second_choice": dict(router=SWITCH | dict(stages=2)),
    "bias": dict(bias_rate=0.01),
    "capacity": dict(router=SWITCH),
}
"""What is changed of the layer, which otherwise has no loss, no noise and no limit."""


def get_config(arg=""):
    """The run's config; see the file's head for the options in `arg`."""
    remedy = options.parse(arg, size=["small"], remedy=REMEDIES).remedy
    layer = dict(sublayers=(dict(name="attention", num_heads=2, head_dim=16), DROPLESS | REMEDIES[remedy]))
    return experiment.config_dict(
        model=dict(name="decoder", vocab_size=264, embed_dim=32, layers=dict(pattern=(layer,), repeats=2)),
        optimizer=dict(learning_rate=1e-2, warmup_steps=20),
        total_steps=300,
        batch_size=8,
        seq_len=128,
        log_every_steps=10,
        eval_batches=32,
    )


def sweep():
    """For `--mode=sweep`: each remedy."""
    return hyper.sweep("arg", [f"remedy={name}" for name in REMEDIES])
