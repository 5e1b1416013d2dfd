"""Hyena as a language model: a GPT whose attention is replaced by Hyena, without positions at the input.

    x <- x + hyena(norm(x));   x <- x + W_2 gelu(W_1 norm(x))

Poli et al., Hyena Hierarchy: Towards Larger Convolutional Language Models, 2023, arXiv 2302.10866, sec. 4.2 and app.
A.2. The layer itself is `arch/mixers/hyena.py`. What its released code has beyond the table of sizes: biases
everywhere, 33 positional features, a tied table whose 50257 ids are padded to a multiple of 8. The one checkpoint that
was released (of the 153M, as a pickled training state) is not read here.
"""

from arch.ffns import mlp
from arch.layers import block, norm, stack
from arch.mixers import hyena
from arch.models import decoder


def compose(
    *,
    embed_dim: int,
    num_layers: int,
    hidden_dim: int = 0,
    vocab_size: int = 50264,
    max_length: int = 2048,
    order: int = 2,
    filter_dim: int = 64,
    bands: int = 16,
    frequency: float = 14.0,
) -> decoder.Config:
    """The model; `hidden_dim` 0 is 2 embed_dim, as in all of the paper's sizes but one."""
    layer_norm = norm.Config(kind="layer", bias=True, epsilon=1e-5)
    filters = dict(filter_dim=filter_dim, bands=bands, frequency=frequency)
    mixer = hyena.Config(max_length=max_length, order=order, **filters)
    ffn = mlp.Config(hidden_dim=hidden_dim or 2 * embed_dim, activation="gelu_tanh", bias=True)
    return decoder.Config(
        vocab_size=vocab_size,
        embed_dim=embed_dim,
        layers=stack.Config(pattern=(block.Config(sublayers=(mixer, ffn), norm=layer_norm),), repeats=num_layers),
        norm=layer_norm,
        tie_embeddings=True,
    )


PRESETS = {
    # The paper's table A.4.
    "hyena_125m": compose(num_layers=12, embed_dim=768, hidden_dim=3072),
    "hyena_125m_slim": compose(num_layers=18, embed_dim=768),
    "hyena_153m": compose(num_layers=18, embed_dim=864),
    "hyena_355m": compose(num_layers=36, embed_dim=1024),
    "hyena_1_3b": compose(num_layers=36, embed_dim=2048),
}

MODEL_TYPES = ()
