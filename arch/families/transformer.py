"""The Transformer of 2017: an encoder-decoder of attention alone, with a norm behind each residual sum.

    x_0 = sqrt(d) W_e[token] + sines(position);   x <- LayerNorm(x + f(x))

Vaswani et al., Attention Is All You Need, 2017, arXiv 1706.03762. One table serves both embeddings and the logits (sec.
3.4); attention has no shifts, the ffn has them (eq. 2). Its checkpoints were not published. Label smoothing (sec. 5.4)
belongs to training.
"""

from arch.families._hyperparameters import channels_a_head
from arch.ffns import mlp
from arch.layers import block, embedding, norm, stack
from arch.mixers import attention, cross_attention
from arch.models import encoder_decoder
from arch.positions import none, sinusoidal


def compose(
    *,
    embed_dim: int,
    num_layers: int,
    num_heads: int,
    hidden_dim: int,
    vocab_size: int = 37000,
    dropout: float = 0.1,
    epsilon: float = 1e-6,
) -> encoder_decoder.Config:
    """The model."""
    layer_norm = norm.Config(kind="layer", epsilon=epsilon, bias=True)
    widths = {"num_heads": num_heads, "head_dim": channels_a_head(embed_dim, num_heads)}
    ffn = mlp.Config(hidden_dim=hidden_dim, activation="relu", bias=True)

    def layers(*mixers) -> stack.Config:
        layer = block.Config(sublayers=(*mixers, ffn), norm=layer_norm, placement="post", dropout=dropout)
        return stack.Config(pattern=(layer,), repeats=num_layers)

    return encoder_decoder.Config(
        vocab_size=vocab_size,
        embed_dim=embed_dim,
        encoder=layers(attention.Config(**widths, causal=False, position=none.Config())),
        decoder=layers(attention.Config(**widths, position=none.Config()), cross_attention.Config(**widths)),
        embedding=embedding.Config(stddev=embed_dim**-0.5, scale=0.0),
        position=sinusoidal.Config(),
        final_norm=False,
        dropout=dropout,
    )


PRESETS = {
    # Table 3, with the 37,000 ids of sec. 5.1: 65M and 213M parameters are printed, 63,045,632 and 214,171,648 counted.
    "transformer_base": compose(num_layers=6, embed_dim=512, hidden_dim=2048, num_heads=8),
    "transformer_big": compose(num_layers=6, embed_dim=1024, hidden_dim=4096, num_heads=16, dropout=0.3),
}

MODEL_TYPES = ()
