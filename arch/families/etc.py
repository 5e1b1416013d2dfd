"""ETC, BigBird's other form: BERT for long rows, with global tokens in front of them and labels in place of positions.

    x <- LayerNorm(x + f(x)),  f = etc_attention, then mlp;  a window of 84 tokens to each side, 256 global tokens

Ainslie et al., ETC: Encoding Long and Structured Inputs in Transformers, 2020, arXiv 2004.08483; BigBird-ETC: Zaheer et
al., Big Bird, 2020, arXiv 2007.14062. The attention itself is `arch/mixers/etc_attention.py`. Each global token has a
vector of its own (`encoder.global_tokens`), where the released models embed the same id for all; there are no vectors
of segments: `Context.token_types` says of which global token a token is. Dropout of attention weights is left out. The
released weights are TensorFlow's checkpoints, which are not read here.
"""

from typing import Any

from arch.families import bert
from arch.mixers import etc_attention
from arch.models import encoder
from arch.positions import none


def compose(
    *, num_globals: int, radius: int = 84, max_distance: int = 12, own_part: bool = False, **others: Any
) -> encoder.Config:
    """The model; the arguments that have names here are those of `etc_attention`, the rest `bert.compose`'s."""
    plain = bert.compose(**others)
    [layer] = plain.layers.pattern
    heads, ffn = layer.sublayers
    mixer = etc_attention.Config(
        num_heads=heads.num_heads,
        head_dim=heads.head_dim,
        num_globals=num_globals,
        radius=radius,
        max_distance=max_distance,
        own_part=own_part,
        bias=True,
    )
    layers = plain.layers.replace(pattern=(layer.replace(sublayers=(mixer, ffn)),))
    return plain.replace(layers=layers, position=none.Config(), token_types=0, global_tokens=num_globals)


PRESETS = {
    # Sizes by default in the released code's EtcConfig, BERT's vocabulary, as many global tokens as for its HotpotQA.
    "etc_base": compose(num_layers=12, embed_dim=768, num_heads=12, num_globals=256, own_part=True),
}
MODEL_TYPES = ()
