"""Sparse Transformer: a GPT for rows of 12288 bytes or pixels, whose tokens see some sqrt(n) of those before them.

    x_0 = W_e[token] + sum_a W_a[coordinate a of the position];   x <- x + attention(norm(x));   x <- x + mlp(norm(x))
    strided:  the last l tokens, and every l-th before them        (images, sound: rows of a period l)
    fixed:    the own block of l tokens, and the last c tokens of each block before it        (text)

Child et al., Generating Long Sequences with Sparse Transformers, 2019, arXiv 1904.10509, sec. 4.3 and 5. Each head sees
both parts at once (sec. 5.1, "merged"). The paper gives heads of the fixed kind different tokens of the blocks to see;
which, it does not say, and here all see the last ones. Its CIFAR-10 model, of queries and keys narrower than values, is
left out, and so is its scaling of initial weights: each matrix starts with a standard deviation of 1/sqrt(fan-in).
"""

from arch.families._hyperparameters import channels_a_head
from arch.ffns import mlp
from arch.layers import block, norm, stack
from arch.layers.contract import Position
from arch.mixers import attention
from arch.models import decoder
from arch.patterns import fixed, strided
from arch.patterns._pattern import PatternConfig
from arch.positions import learned_axes, none


def compose(
    *,
    embed_dim: int,
    num_layers: int,
    num_heads: int,
    pattern: PatternConfig,
    position: Position,
    hidden_dim: int = 0,
    vocab_size: int = 256,
    dropout: float = 0.0,
) -> decoder.Config:
    """The model; `hidden_dim` 0 is 4 embed_dim, `dropout` that of each sublayer's result."""
    layer_norm = norm.Config(kind="layer", epsilon=1e-5, bias=True)
    head_dim = channels_a_head(embed_dim, num_heads)
    mixer = attention.Config(num_heads=num_heads, head_dim=head_dim, position=none.Config(), pattern=pattern)
    ffn = mlp.Config(hidden_dim=hidden_dim or 4 * embed_dim, activation="gelu_sigmoid", bias=True)
    layer = block.Config(sublayers=(mixer, ffn), norm=layer_norm, dropout=dropout)
    return decoder.Config(
        vocab_size=vocab_size,
        embed_dim=embed_dim,
        layers=stack.Config(pattern=(layer,), repeats=num_layers),
        position=position,
        norm=layer_norm,
        tie_embeddings=False,
    )


PRESETS = {
    # Sec. 7.2: bytes of enwik8, 12288 at a time, as rows of 128.
    "sparse_transformer_enwik8": compose(
        embed_dim=512,
        num_layers=30,
        num_heads=8,
        pattern=fixed.Config(stride=128, summaries=32),
        position=learned_axes.Config(shape=(96, 128)),
        dropout=0.4,
    ),
    # Sec. 7.3: the 64 x 64 x 3 values of an image of ImageNet-64.
    "sparse_transformer_imagenet64": compose(
        embed_dim=512,
        num_layers=48,
        num_heads=16,
        pattern=strided.Config(stride=128),
        position=learned_axes.Config(shape=(64, 64, 3)),
        dropout=0.01,
    ),
}

MODEL_TYPES = ()
