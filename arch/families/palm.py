"""PaLM: parallel sublayers behind one norm, SwiGLU, one key-value head, rotary positions, a tied table, no shifts.

    x <- x + attention(norm(x)) + W_down (silu(W_gate norm(x)) * W_up norm(x))

Chowdhery et al., PaLM: Scaling Language Modeling with Pathways, 2022, arXiv 2204.02311, sec. 2. Its weights are not
published, so that this file reads and writes none. The head size is 256 whatever the width; LayerNorm has no shift;
the table starts as N(0, 1) and its logits are divided by sqrt(embed_dim) (sec. 5).
"""

from arch.ffns import gated_mlp
from arch.layers import block, embedding, norm, stack
from arch.mixers import attention
from arch.models import decoder
from arch.positions import rope


def compose(*, embed_dim: int, num_layers: int, num_heads: int, vocab_size: int = 256000) -> decoder.Config:
    """The model; the feed-forward sublayer is four times as wide as the stream."""
    layer_norm = norm.Config(kind="layer")
    mixer = attention.Config(num_heads=num_heads, head_dim=256, num_kv_heads=1, position=rope.Config())
    ffn = gated_mlp.Config(hidden_dim=4 * embed_dim, activation="silu")
    layer = block.Config(sublayers=(mixer, ffn), norm=layer_norm, placement="parallel")
    return decoder.Config(
        vocab_size=vocab_size,
        embed_dim=embed_dim,
        layers=stack.Config(pattern=(layer,), repeats=num_layers),
        embedding=embedding.Config(stddev=1.0),
        norm=layer_norm,
        tie_embeddings=True,
        logit_scale=embed_dim**-0.5,
    )


PRESETS = {
    # The paper's table 1.
    "palm_8b": compose(num_layers=32, embed_dim=4096, num_heads=16),
    "palm_62b": compose(num_layers=64, embed_dim=8192, num_heads=32),
    "palm_540b": compose(num_layers=118, embed_dim=18432, num_heads=48),
}

MODEL_TYPES = ()
