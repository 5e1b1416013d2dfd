"""RWKV-7 "Goose": layers of time mixing and channel mixing, each behind a LayerNorm, and one more behind the embedding.

    x <- x + time_mix(norm(x), values of the first layer);   x <- x + channel_mix(norm(x))

Peng et al., RWKV-7 "Goose" with Expressive Dynamic State Evolution, 2025, arXiv 2503.14456, sec. 4 and app. E. The
sublayers themselves are `arch/mixers/rwkv7.py` and `arch/ffns/channel_mix.py`. Its weights are published as pickled
tensors, which are not read here.
"""

from arch.ffns import channel_mix
from arch.layers import block, norm, stack
from arch.mixers import rwkv7
from arch.models import decoder


def compose(
    *,
    embed_dim: int,
    num_layers: int,
    vocab_size: int = 65536,
    hidden_dim: int = 0,
    head_dim: int = 64,
    decay_rank: int = 64,
    rate_rank: int = 64,
    gate_rank: int = 128,
    value_rank: int = 32,
) -> decoder.Config:
    """The model; `hidden_dim` 0 is 4 embed_dim.

    Raises:
      ValueError: head_dim does not divide embed_dim, or there are fewer than two layers.
    """
    if num_layers < 2:
        raise ValueError(f"num_layers={num_layers} must be at least 2: the first one's values are for the others")
    if embed_dim % head_dim:
        raise ValueError(f"embed_dim={embed_dim} must be a multiple of head_dim={head_dim}")
    layer_norm = norm.Config(kind="layer", bias=True, epsilon=1e-5)
    ranks = dict(decay_rank=decay_rank, rate_rank=rate_rank, gate_rank=gate_rank, value_rank=value_rank)
    sizes = dict(num_heads=embed_dim // head_dim, head_dim=head_dim)
    ffn = channel_mix.Config(hidden_dim=hidden_dim or 4 * embed_dim, gated=False)

    def layer(values: str) -> block.Config:
        return block.Config(sublayers=(rwkv7.Config(**sizes, **ranks, values=values), ffn), norm=layer_norm)

    return decoder.Config(
        vocab_size=vocab_size,
        embed_dim=embed_dim,
        layers=stack.Config(prefix=(layer("first"),), pattern=(layer("residual"),), repeats=num_layers - 1),
        embedding_norm=True,
        norm=layer_norm,
        tie_embeddings=False,
    )


_WIDER = dict(decay_rank=96, rate_rank=96, value_rank=64)

PRESETS = {
    # The paper's RWKV7-World3; the ranks of the two greater ones as in the released weights.
    "rwkv7_0_1b": compose(num_layers=12, embed_dim=768),
    "rwkv7_0_4b": compose(num_layers=24, embed_dim=1024),
    "rwkv7_1_5b": compose(num_layers=24, embed_dim=2048, **_WIDER, gate_rank=256),
    "rwkv7_2_9b": compose(num_layers=32, embed_dim=2560, **_WIDER, gate_rank=320),
}

MODEL_TYPES = ()
