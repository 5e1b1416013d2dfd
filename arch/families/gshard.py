"""GShard: an encoder-decoder for translation in which every other ffn is a mixture of up to 2048 experts, top-2.

    x <- x + sum_{i in top 2} w_i W_down,i relu(W_up,i norm(x)),   the second one by chance, up to a capacity

Lepikhin et al., GShard: Scaling Giant Models with Conditional Computation and Automatic Sharding, 2020, arXiv
2006.16668, sec. 2 and table 1, whose "36L" are encoder and decoder together: width 1024, hidden 8192, 16 heads of 128.
The paper leaves open the vocabulary (here 64,000, shared and tied), the place of the norms (here before each sublayer)
and whether there are shifts (here none). No weights are published.
"""

from arch.ffns import mlp, moe
from arch.layers import block, embedding, norm, stack
from arch.mixers import attention, cross_attention
from arch.models import encoder_decoder
from arch.positions import none, sinusoidal
from arch.routers import gshard


def compose(
    *,
    num_layers: int,
    num_experts: int,
    embed_dim: int = 1024,
    num_heads: int = 16,
    head_dim: int = 128,
    hidden_dim: int = 8192,
    vocab_size: int = 64000,
    dropout: float = 0.1,
    balance_weight: float = 0.01,
) -> encoder_decoder.Config:
    """The model; half of `num_layers` encode, half decode, and of either half every second one has experts."""
    if num_layers % 4:
        raise ValueError(f"num_layers={num_layers} must be a multiple of 4: half of each side's layers have experts")
    layer_norm = norm.Config(kind="layer", bias=True)
    widths = {"num_heads": num_heads, "head_dim": head_dim}
    dense = mlp.Config(hidden_dim=hidden_dim, activation="relu")
    experts = moe.Config(
        num_experts=num_experts,
        top_k=2,
        hidden_dim=hidden_dim,
        router=gshard.Config(),
        activation="relu",
        gated=False,
        balance_weight=balance_weight,
        z_weight=0.0,
    )

    def layers(*mixers) -> stack.Config:
        both = (block.Config(sublayers=(*mixers, ffn), norm=layer_norm, dropout=dropout) for ffn in (dense, experts))
        return stack.Config(pattern=tuple(both), repeats=num_layers // 4)

    return encoder_decoder.Config(
        vocab_size=vocab_size,
        embed_dim=embed_dim,
        encoder=layers(attention.Config(**widths, causal=False, position=none.Config())),
        decoder=layers(attention.Config(**widths, position=none.Config()), cross_attention.Config(**widths)),
        embedding=embedding.Config(stddev=embed_dim**-0.5, scale=0.0),
        position=sinusoidal.Config(),
        norm=layer_norm,
        dropout=dropout,
    )


PRESETS = {
    # Table 1: 600B, 200B, 150B, 50B, 37B, 12.5B.
    f"gshard_{name}": compose(num_layers=num_layers, num_experts=num_experts)
    for name, num_experts, num_layers in (
        ("600b", 2048, 36),
        ("200b", 2048, 12),
        ("150b", 512, 36),
        ("50b", 512, 12),
        ("37b", 128, 36),
        ("12_5b", 128, 12),
    )
}

MODEL_TYPES = ()
