"""A small hybrid language model on real text: Mamba, mixture of experts, attention and a gated perceptron.

Source:    the pattern is Jamba's in small (Lieber et al., 2024, arXiv 2403.19887): the mixers and the ffns alternate.
Text:      the Python standard library's own source, 7 MB, or --config.data.path=FILE_OR_FOLDER.
Command:   python run.py --config=configs/demo.py --workdir=runs/demo
Hardware:  2 CPU cores
Time:      3 minutes, of which 40 seconds are gone at the first step
Expected:  1.819 validation bits per byte (spread 0.028 over 2 seeds); benchmarks/results/demo-cpu.json. Order-3 Markov
           models of the same bytes: 2.153 held out; 1.857 in sample, their empirical entropy.

Options, as in `configs/demo.py:mixer=mamba,ffn=moe`: mixer is hybrid, attention or mamba; ffn is hybrid,
gated_mlp or moe.
"""

from arch import config, hyper
from arch.train import experiment

EMBED_DIM = 128
VOCAB_SIZE = 2048

MIXERS = {
    "attention": dict(name="attention", num_heads=4, head_dim=32, qk_norm=True),
    "mamba": dict(name="mamba", inner_dim=2 * EMBED_DIM, state_dim=4),
}
FFNS = {
    "gated_mlp": dict(name="gated_mlp", hidden_dim=2 * EMBED_DIM),
    "moe": dict(name="moe", num_experts=4, top_k=2, hidden_dim=EMBED_DIM),
}


def get_config(arg=""):
    """The run's config; see the file's head for the options in `arg`."""
    options = config.parse_arg(arg, mixer="hybrid", ffn="hybrid")
    mixers = _pair(MIXERS, options.mixer, "mixer", first="mamba")
    ffns = _pair(FFNS, options.ffn, "ffn", first="moe")
    return experiment.config_dict(
        model=dict(
            name="decoder",
            vocab_size=VOCAB_SIZE,
            embed_dim=EMBED_DIM,
            layers=dict(pattern=tuple(dict(sublayers=pair) for pair in zip(mixers, ffns)), repeats=2),
        ),
        data=dict(tokenizer=dict(kind="bpe", vocab_size=VOCAB_SIZE)),
        optimizer=dict(learning_rate=8e-3, warmup_steps=100, final_share=0.02, b2=0.98),
        total_steps=780,
        batch_size=8,
        seq_len=128,
        log_every_steps=20,
        eval_every_steps=0,
        checkpoint_every_steps=260,
        sample_prompt="def ",
    )


def sweep():
    """For `--mode=sweep`: three learning rates, two seeds each."""
    rates = hyper.sweep("optimizer.learning_rate", [4e-3, 8e-3, 1.6e-2])
    return hyper.product([rates, hyper.sweep("seed", range(2))])


def _pair(known, name, option, *, first):
    """The sublayers of a period's two blocks: both kinds, `first` first, or twice the one that is named."""
    if name == "hybrid":
        return known[first], *(other for key, other in known.items() if key != first)
    if name not in known:
        raise config.ConfigError(f"option {option}={name!r} must be hybrid, {' or '.join(known)}")
    return known[name], known[name]
