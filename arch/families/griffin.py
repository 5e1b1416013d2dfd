"""Griffin, as RecurrentGemma: two layers of RG-LRU, one of attention within a window, and again; GeGLU after each.

    x <- x + mixer_i(norm(x)),   mixer_i = attention where i = 2 mod 3, else rg_lru
    x <- x + W_down (gelu(W_gate norm(x)) * W_up norm(x))

De et al., Griffin: Mixing Gated Linear Recurrences with Local Attention for Efficient Language Models, 2024, arXiv
2402.19427, sec. 2; Botev et al., RecurrentGemma: Moving Past Transformers for Efficient Open Language Models, 2024,
arXiv 2404.07839, sec. 2 and table 1. The embedded tokens are multiplied by sqrt(embed_dim), rounded to bfloat16 as in
the released code. Published weights are not read here: their norms hold what the scale has above 1.
"""

import jax.numpy as jnp

from arch.ffns import gated_mlp
from arch.layers import block, embedding, norm, stack
from arch.mixers import attention, rg_lru
from arch.models import decoder
from arch.positions import rope

PERIOD = ("rg_lru", "rg_lru", "attention")
"""The layers' mixers, over and over."""


def compose(
    *,
    embed_dim: int,
    num_layers: int,
    num_heads: int,
    hidden_dim: int = 0,
    vocab_size: int = 256000,
    window: int = 2048,
    logit_soft_cap: float = 30.0,
    period: tuple[str, ...] = PERIOD,
) -> decoder.Config:
    """The model, which is as wide in its recurrences as in its stream; `hidden_dim` 0 is 3 embed_dim.

    Raises:
      ValueError: the heads do not divide embed_dim, or a period holds another mixer or does not end within the layers.
    """
    if embed_dim % num_heads:
        raise ValueError(f"embed_dim={embed_dim} must be a multiple of num_heads={num_heads}")
    if not set(period) <= set(PERIOD) or not 0 < len(period) <= num_layers:
        raise ValueError(f"period={period} must be of 'rg_lru' and 'attention', and of at most {num_layers} layers")
    rms = norm.Config(kind="rms", epsilon=1e-6)
    heads = dict(num_heads=num_heads, num_kv_heads=1, head_dim=embed_dim // num_heads, window=window, bias="out")
    mixers = {
        "rg_lru": rg_lru.Config(inner_dim=embed_dim, num_heads=num_heads),
        "attention": attention.Config(**heads, position=rope.Config(fraction=0.5)),
    }
    ffn = gated_mlp.Config(hidden_dim=hidden_dim or 3 * embed_dim, activation="gelu_tanh", bias=True)
    pattern = tuple(block.Config(sublayers=(mixers[name], ffn), norm=rms) for name in period)
    repeats, rest = divmod(num_layers, len(pattern))
    return decoder.Config(
        vocab_size=vocab_size,
        embed_dim=embed_dim,
        layers=stack.Config(pattern=pattern, repeats=repeats, suffix=pattern[:rest]),
        embedding=embedding.Config(scale=float(jnp.bfloat16(embed_dim**0.5))),
        norm=rms,
        tie_embeddings=True,
        logit_soft_cap=logit_soft_cap,
    )


PRESETS = {
    # RecurrentGemma, table 1.
    "recurrentgemma_2b": compose(num_layers=26, embed_dim=2560, num_heads=10),
    "recurrentgemma_9b": compose(num_layers=38, embed_dim=4096, num_heads=16),
}

MODEL_TYPES = ()
