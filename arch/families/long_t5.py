"""LongT5: T5 whose encoder sees a window around each token, and perhaps summaries of all of its row's blocks.

    local               attention over |i - j| <= 127, with T5's bias
    transient global    the same, and over a summary of each block of 16 tokens (`arch.mixers.transient_global_attention`)

Guo, Ainslie, Uthus, Ontanon, Ni, Sung, Yang, LongT5: Efficient Text-To-Text Transformer for Long Sequences, 2021, arXiv
2112.07916, sec. 3.1; sizes as in the released configs, which are those of T5 1.1 (`arch.families.t5`). The decoder is
T5's. Dropout does not act on the encoder's attention weights: no weight of the blocks is ever kept.
"""

from collections.abc import Callable
from typing import Any, Literal

from arch import config as configs
from arch.families import t5
from arch.families._hyperparameters import confirm
from arch.families.t5 import PREFIX, duplicates, ignored
from arch.layers import block, stack
from arch.layers.contract import SublayerConfig
from arch.mixers import attention, transient_global_attention
from arch.models import encoder_decoder
from arch.patterns import full, longformer
from arch.published import Attributes, Rule

__all__ = ["MODEL_TYPES", "PREFIX", "PRESETS", "compose", "duplicates", "ignored", "read", "rules", "write"]


def compose(
    *, sight: Literal["local", "transient-global"], radius: int = 127, summary: int = 16, **sizes: Any
) -> encoder_decoder.Config:
    """The model; `radius` tokens on either side are seen, `summary` tokens are summed; the rest is `t5.compose`'s."""

    def longer(mixer: attention.Config, dropout: float) -> SublayerConfig:
        if sight == "local":
            return mixer.replace(pattern=longformer.Config(window=2 * radius, globals=()), dropout=0.0)
        widths = dict(num_heads=mixer.num_heads, head_dim=mixer.head_dim, scale=mixer.scale, position=mixer.position)
        return transient_global_attention.Config(**widths, radius=radius, summary=summary, epsilon=plain.norm.epsilon)

    plain = t5.compose(**sizes)
    return _with_mixers(plain, longer)


def _with_mixers(config: encoder_decoder.Config, change: Callable) -> encoder_decoder.Config:
    """The model with change(mixer, dropout) for each mixer of the encoder."""

    def changed(layer: block.Config) -> block.Config:
        mixer, *rest = layer.sublayers
        return layer.replace(sublayers=(change(mixer, layer.dropout), *rest))

    layers: stack.Config = config.encoder
    parts = {name: tuple(map(changed, getattr(layers, name))) for name in ("prefix", "pattern", "suffix")}
    return config.replace(encoder=layers.replace(**parts))


def _plain(config: encoder_decoder.Config) -> encoder_decoder.Config:
    """T5 of the same sizes."""

    def shorter(mixer: SublayerConfig, dropout: float) -> attention.Config:
        if isinstance(mixer, attention.Config):
            return mixer.replace(pattern=full.Config(), block=0, dropout=dropout)
        if not isinstance(mixer, transient_global_attention.Config):
            return mixer
        widths = dict(num_heads=mixer.num_heads, head_dim=mixer.head_dim, scale=mixer.scale, position=mixer.position)
        return attention.Config(**widths, causal=False, dropout=dropout)

    return _with_mixers(config, shorter)


def _preset(sight: str, num_layers: int, embed_dim: int, hidden_dim: int, num_heads: int) -> encoder_decoder.Config:
    widths = dict(embed_dim=embed_dim, hidden_dim=hidden_dim, num_heads=num_heads, head_dim=64)
    version = dict(gated=True, activation="gelu_tanh", tie_embeddings=False)
    return compose(sight=sight, num_layers=num_layers, **widths, **version)


_SIZES = {"base": (12, 768, 2048, 12), "large": (24, 1024, 2816, 16), "xl": (24, 2048, 5120, 32)}

PRESETS = {
    # The released configs: google/long-t5-local-base, -local-large, -tglobal-base, -tglobal-large and -tglobal-xl.
    **{f"long_t5_local_{size}": _preset("local", *_SIZES[size]) for size in ("base", "large")},
    **{f"long_t5_tglobal_{size}": _preset("transient-global", *_SIZES[size]) for size in _SIZES},
}

MODEL_TYPES = ("longt5",)
ARCHITECTURE = "LongT5ForConditionalGeneration"
MIXERS = {"attention": "LocalSelfAttention", "transient_global_attention": "TransientGlobalSelfAttention"}


def read(attributes: Attributes) -> encoder_decoder.Config:
    """Our config from theirs. Raises ValueError on what it cannot express."""
    attributes.expect("architectures", [ARCHITECTURE])
    sight = attributes.get("encoder_attention_type", "local")
    if sight not in ("local", "transient-global"):
        raise ValueError(f"encoder_attention_type={sight!r} must be 'local' or 'transient-global'")
    found = {"radius": attributes.get("local_radius", 127), "summary": attributes.get("global_block_size", 16)}
    found |= t5.read_sizes(attributes)
    attributes.finish()
    return compose(sight=sight, **found)


def write(config: configs.Config) -> dict:
    """Their config.json from ours. Raises ValueError on what it cannot express."""
    if not isinstance(config, encoder_decoder.Config):
        raise ValueError(f"model={type(config).__module__} must be an encoder_decoder in this family")
    mixer = config.encoder.blocks[0].sublayers[0]
    if isinstance(mixer, transient_global_attention.Config):
        sight = dict(encoder_attention_type="transient-global", global_block_size=mixer.summary)
        sight["local_radius"] = mixer.radius
    elif isinstance(mixer, attention.Config) and isinstance(mixer.pattern, longformer.Config):
        sight = dict(encoder_attention_type="local", local_radius=mixer.pattern.window // 2)
    else:
        kinds = "transient_global_attention, or attention with the pattern longformer"
        raise ValueError(f"encoder[0].sublayers[0]={mixer.label} must be {kinds} in this family")
    written = t5.write(_plain(config)) | sight | {"model_type": "longt5", "architectures": [ARCHITECTURE]}
    confirm(config, read(Attributes(written)))
    return written


def rules(config: encoder_decoder.Config) -> list[Rule]:
    """One rule a tensor."""
    return t5.rules_with(_mixer_rules, config)


def _mixer_rules(sublayer: SublayerConfig, ours: str, theirs: str) -> list[Rule]:
    if sublayer.label == "cross_attention" or theirs.startswith("decoder"):
        return t5.mixer_rules(sublayer, ours, theirs)
    name = MIXERS[sublayer.label]
    out = t5.mixer_rules(sublayer, ours, theirs, name)
    if sublayer.label == "transient_global_attention":
        out.append(Rule(f"{ours}/summary_scale", f"{theirs}.{name}.global_input_layer_norm.weight"))
        if sublayer.position.owner:
            out.append(Rule(f"{ours}/global_relative", f"{theirs}.{name}.global_relative_attention_bias.weight"))
    return out
