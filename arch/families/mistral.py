"""Mistral: LLaMA's layers, with grouped-query attention over a sliding window of tokens.

    x <- x + attention(norm(x)), token t sees tokens t - window + 1 ... t;   x <- x + swiglu(norm(x))

Jiang et al., Mistral 7B, 2023, arXiv 2310.06825, sec. 2. After k layers a token has heard of k * window tokens. Later
releases (v0.2, v0.3) have no window and rotate more slowly (their model cards).
"""

from arch import config as configs
from arch.families._hyperparameters import channels_a_head, confirm, sublayers
from arch.families.llama import PREFIX, common, duplicates, ignored, read_common, rules, write_common
from arch.ffns import gated_mlp
from arch.layers import block, norm, stack
from arch.layers.contract import Position
from arch.mixers import attention
from arch.models import decoder
from arch.ops.activation import Activation
from arch.positions import rope
from arch.published import Attributes

__all__ = [
    "MODEL_TYPES", "PREFIX", "PRESETS", "SPECIALISES", "compose",
    "duplicates", "ignored", "read", "rules", "write",
]  # fmt: skip


def compose(
    *,
    vocab_size: int,
    embed_dim: int,
    num_layers: int,
    num_heads: int,
    hidden_dim: int,
    num_kv_heads: int = 0,
    head_dim: int = 0,
    window: int = 0,
    position: Position = rope.Config(),
    epsilon: float = 1e-5,
    activation: Activation = "silu",
    attention_dropout: float = 0.0,
    tie_embeddings: bool = False,
) -> decoder.Config:
    """The model; `window` 0 is all tokens, `num_kv_heads` 0 num_heads, `head_dim` 0 embed_dim / num_heads."""
    rms = norm.Config(kind="rms", epsilon=epsilon)
    mixer = attention.Config(
        num_heads=num_heads,
        head_dim=head_dim or channels_a_head(embed_dim, num_heads),
        num_kv_heads=num_kv_heads or num_heads,
        window=window,
        position=position,
        dropout=attention_dropout,
    )
    ffn = gated_mlp.Config(hidden_dim=hidden_dim, activation=activation)
    return decoder.Config(
        vocab_size=vocab_size,
        embed_dim=embed_dim,
        layers=stack.Config(pattern=(block.Config(sublayers=(mixer, ffn), norm=rms),), repeats=num_layers),
        norm=rms,
        tie_embeddings=tie_embeddings,
    )


_7B = dict(embed_dim=4096, num_layers=32, num_heads=32, num_kv_heads=8, hidden_dim=14336)

PRESETS = {
    # Mistral 7B, table 1; v0.3 as in its model card.
    "mistral_7b": compose(**_7B, vocab_size=32000, window=4096),
    "mistral_7b_v3": compose(**_7B, vocab_size=32768, position=rope.Config(theta=1e6)),
}

MODEL_TYPES = ("mistral",)
SPECIALISES = "llama"


def read(attributes: Attributes) -> decoder.Config:
    """Our config from theirs. Raises ValueError on what it cannot express."""
    found = read_common(attributes, num_kv_heads=8)
    config = compose(**found, window=attributes.get("sliding_window", 4096, null=0))
    attributes.finish()
    return config


def write(config: configs.Config) -> dict:
    """Their config.json from ours. Raises ValueError on what it cannot express."""
    mixer, _ = sublayers(config, decoder.Config, attention.Config, gated_mlp.Config)
    found = common(config)
    confirm(config, compose(**found, window=mixer.window))
    head = {"architectures": ["MistralForCausalLM"], "model_type": "mistral"}
    return head | write_common(found) | {"sliding_window": mixer.window or None}
