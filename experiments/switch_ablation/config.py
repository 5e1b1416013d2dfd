"""Switch layers: sparse against dense at equal FLOPs, by the capacity of experts and the weight of the balance loss.

Source:    Fedus, Zoph, Shazeer, Switch Transformers, 2021, arXiv 2101.03961, table 1 and sec. 2.2
Text:      the Python standard library's own source, 7 MB, as bytes
Commands:  experiments/switch_ablation/README.md has them, and what they gave
Hardware:  2 CPU cores

Options, as in `config.py:small,layer=switch`: there is one size; layer is dense or switch.
"""

from arch.train import experiment
from experiments import options

HIDDEN = 128
CAPACITIES, WEIGHTS = (1.0, 1.25, 2.0), (0.0, 1e-4, 1e-2, 1e-1)


def get_config(arg=""):
    """The run's config; see the file's head for the options in `arg`."""
    layer = options.parse(arg, size=["small"], layer=["switch", "dense"]).layer
    router = dict(name="switch", capacity_factor=1.25, eval_capacity_factor=2.0)
    experts = dict(name="moe", num_experts=8, top_k=1, hidden_dim=HIDDEN, gated=False, activation="relu", router=router)
    experts |= dict(renormalize=False, balance_weight=0.01, z_weight=0.0)
    ffn = experts if layer == "switch" else dict(name="mlp", hidden_dim=HIDDEN, activation="relu")
    block = dict(sublayers=(dict(name="attention", num_heads=2, head_dim=16), ffn))
    return experiment.config_dict(
        model=dict(name="decoder", vocab_size=264, embed_dim=32, layers=dict(pattern=(block,), repeats=2)),
        optimizer=dict(learning_rate=1e-2, warmup_steps=20),
        total_steps=400,
        batch_size=8,
        seq_len=128,
        log_every_steps=10,
        eval_batches=32,
    )


def sweep():
    """For `--mode=sweep`: dense; three capacities with the paper's balance loss; one of them with its other weights."""
    layer = "model.layers.pattern[0].sublayers[1]"
    pairs = [(capacity, 1e-2) for capacity in CAPACITIES] + [(1.25, weight) for weight in WEIGHTS if weight != 1e-2]
    sparse = [
        {"arg": "layer=switch", f"{layer}.router.capacity_factor": factor, f"{layer}.balance_weight": weight}
        for factor, weight in pairs
    ]
    return [{"arg": "layer=dense"}, *sparse]
