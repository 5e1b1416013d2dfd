"""A config for tests of run.py: Mamba, mixture of experts, attention and a gated MLP, or the MLP alone (`:mlp`)."""

from arch import config
from arch.train import experiment


def get_config(arg=""):
    options = config.parse_arg(arg, layers="hybrid", repeats=1)
    mamba = dict(name="mamba", inner_dim=14, state_dim=3)
    moe = dict(name="moe", num_experts=3, top_k=2, hidden_dim=5)
    attention = dict(name="attention", num_heads=4, num_kv_heads=2, head_dim=6)
    gated_mlp = dict(name="gated_mlp", hidden_dim=11)
    patterns = {
        "hybrid": (dict(sublayers=(mamba, moe)), dict(sublayers=(attention, gated_mlp))),
        "mlp": (dict(sublayers=(gated_mlp,)),),
    }
    layers = dict(pattern=patterns[options.layers], repeats=options.repeats)
    return experiment.config_dict(
        model=dict(name="decoder", vocab_size=257, embed_dim=12, layers=layers),
        total_steps=6,
        batch_size=8,
        seq_len=32,
        log_every_steps=2,
        eval_every_steps=3,
        eval_batches=2,
        checkpoint_every_steps=3,
        sample_prompt="The ",
        sample=dict(max_new_tokens=5),
    )
