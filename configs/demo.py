"""Demo."""
from arch.train import experiment


def get_config(arg=""):
    block = dict(sublayers=(dict(name="attention", num_heads=4, head_dim=32), dict(name="gated_mlp", hidden_dim=256)))
    return experiment.config_dict(
        model=dict(name="decoder", vocab_size=264, embed_dim=128, layers=dict(pattern=(block,), repeats=2)),
        total_steps=20, batch_size=8, seq_len=64,
        eval_every_steps=10, checkpoint_every_steps=10, eval_batches=2, sample_prompt="def ",
    )
