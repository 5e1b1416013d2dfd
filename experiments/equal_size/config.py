"""Seven architectures of equal size on one corpus: loss against tokens, FLOPs and seconds.

Sources:   Gu, Dao, Mamba, 2023, arXiv 2312.00752, sec. 4.2.1 and fig. 4; Lieber et al., Jamba, 2024, arXiv 2403.19887,
           sec. 6.1; the families' own papers are in arch/families
Text:      the Python standard library's own source, 7 MB; of `paper` --config.data.path=FILE_OR_FOLDER
Commands:  experiments/equal_size/README.md has them, and what they gave
Hardware:  2 CPU cores; of `paper` an accelerator

Options, as in `config.py:small,model=jamba`: size is one of SIZES, model one of MODELS.
"""

from arch import hyper
from arch.families import jamba, llama, mamba2_lm, mixtral, performer, rwkv
from arch.positions import none, rope
from arch.train import experiment
from experiments import options

SIZES = {
    "small": dict(
        width=128, layers=4, head_dim=32, vocab=2048, jamba_hidden=64,
        run=dict(total_steps=500, batch_size=8, seq_len=128, eval_batches=32),
        rate=4e-3,
    ),
    "paper": dict(
        width=768, layers=12, head_dim=64, vocab=32768, jamba_hidden=432,
        run=dict(total_steps=4800, batch_size=256, seq_len=2048, eval_batches=32),
        rate=3e-3,
    ),
}  # fmt: skip


def attention(size):
    """What the models with attention share: 4 d^2 parameters a layer, and 6 d^2 with `hidden_dim`."""
    d, heads = size["width"], size["width"] // size["head_dim"]
    return dict(
        vocab_size=size["vocab"], embed_dim=d, num_layers=size["layers"], num_heads=heads, hidden_dim=2 * d,
        tie_embeddings=True,
    )  # fmt: skip


def longformer_type(size):
    """LLaMA with a window of a quarter of the row in each layer."""
    model = llama.compose(**attention(size))
    (block,) = model.layers.pattern
    mixer, ffn = block.sublayers
    near = mixer.replace(window=size["run"]["seq_len"] // 4)
    return model.replace(layers=model.layers.replace(pattern=(block.replace(sublayers=(near, ffn)),)))


def mixtral_of(size):
    """Four experts, of which a token has two, in all as large as LLaMA's perceptron."""
    experts = dict(hidden_dim=size["width"] // 2, num_experts=4, top_k=2, balance_weight=0.01)
    return mixtral.compose(**attention(size) | experts)


def performer_of(size):
    """LLaMA with twice as many random features as channels in place of the softmax."""
    shared = {key: value for key, value in attention(size).items() if key != "tie_embeddings"}
    features = dict(num_features=2 * size["head_dim"], position=none.Config(), rotation=rope.Config())
    return performer.compose(**shared, **features, ffn="gated_mlp")


def rwkv_of(size):
    """RWKV-4, its channel mixing narrower than 4 d."""
    d = size["width"]
    shared = dict(vocab_size=size["vocab"], embed_dim=d, num_layers=size["layers"], tie_embeddings=True)
    return rwkv.compose(**shared, hidden_dim=5 * d // 2)


def mamba2_of(size):
    """Half as many layers more, since one has no perceptron."""
    shared = dict(vocab_size=size["vocab"], embed_dim=size["width"], num_layers=3 * size["layers"] // 2)
    return mamba2_lm.compose(**shared, head_dim=size["head_dim"], state_dim=size["width"] // 4)


def jamba_of(size):
    """One layer of four with attention, the others Mamba; each second ffn four experts, of which a token has two."""
    shared = attention(size) | dict(hidden_dim=size["jamba_hidden"], num_kv_heads=attention(size)["num_heads"])
    experts = dict(num_experts=4, top_k=2, balance_weight=0.01)
    return jamba.compose(**shared, **experts, attention_period=4, attention_offset=2)


MODELS = {
    "llama": lambda size: llama.compose(**attention(size)),
    "mixtral": mixtral_of,
    "longformer_type": longformer_type,
    "performer": performer_of,
    "rwkv": rwkv_of,
    "mamba2": mamba2_of,
    "jamba": jamba_of,
}


def get_config(arg=""):
    """The run's config; see the file's head for the options in `arg`."""
    given = options.parse(arg, size=SIZES, model=MODELS)
    size = SIZES[given.size]
    return experiment.config_dict(
        model=MODELS[given.model](size),
        data=dict(tokenizer=dict(kind="bpe", vocab_size=size["vocab"])),
        optimizer=dict(learning_rate=size["rate"], warmup_percent=10.0, final_share=0.02, b2=0.98),
        log_every_percent=2.0,
        eval_every_percent=10.0,
        **size["run"],
    )


def sweep():
    """For `--mode=sweep`: each model."""
    return hyper.sweep("arg", [f"model={name}" for name in MODELS])
