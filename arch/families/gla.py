"""GLA: layers of gated linear attention and of a SwiGLU, each behind an RMSNorm, without biases.

    x <- x + gated_linear_attention(norm(x));   x <- x + W_down (silu(W_gate norm(x)) * W_up norm(x))

Yang et al., Gated Linear Attention Transformers with Hardware-Efficient Training, 2023, arXiv 2312.06635, sec. 4.4 and
5.1. The layer itself is `arch/mixers/gated_linear_attention.py`. Sizes and weights are those of the authors' package,
flash-linear-attention (GLAForCausalLM): its convolutions, maps of features, fewer heads of keys and layers of attention
in between are off by default, and none of the released models has them; they are not expressed here.
"""

import math

from arch import config as configs
from arch.families._hyperparameters import confirm, sublayers
from arch.families._rules import linear
from arch.ffns import gated_mlp
from arch.layers import block, norm, stack
from arch.mixers import gated_linear_attention
from arch.models import decoder
from arch.published import Attributes, Rule


def compose(
    *,
    embed_dim: int,
    num_layers: int,
    num_heads: int = 4,
    vocab_size: int = 32000,
    key_dim: int = 0,
    value_dim: int = 0,
    hidden_dim: int = 0,
    epsilon: float = 1e-6,
    tie_embeddings: bool = False,
) -> decoder.Config:
    """The model; of all heads, `key_dim` 0 is embed_dim / 2 and `value_dim` 0 embed_dim; `hidden_dim` 0 is `widened`.

    Raises:
      ValueError: the heads do not share key_dim or value_dim evenly.
    """
    rms = norm.Config(kind="rms", epsilon=epsilon)
    mixer = gated_linear_attention.Config(
        num_heads=num_heads,
        head_dim=_shared("key_dim", key_dim or embed_dim // 2, num_heads),
        value_dim=_shared("value_dim", value_dim or embed_dim, num_heads),
        gate_bias=False,
        epsilon=epsilon,
    )
    ffn = gated_mlp.Config(hidden_dim=hidden_dim or widened(embed_dim))
    return decoder.Config(
        vocab_size=vocab_size,
        embed_dim=embed_dim,
        layers=stack.Config(pattern=(block.Config(sublayers=(mixer, ffn), norm=rms),), repeats=num_layers),
        norm=rms,
        tie_embeddings=tie_embeddings,
    )


def _shared(name: str, channels: int, num_heads: int) -> int:
    if channels % num_heads:
        raise ValueError(f"{name}={channels} must be a multiple of num_heads={num_heads}")
    return channels // num_heads


def widened(embed_dim: int, ratio: float = 4) -> int:
    """The SwiGLU's channels: 2/3 of `ratio` times the width, rounded up to a multiple of 256."""
    return 256 * math.ceil(int(embed_dim * ratio * 2 / 3) / 256)


PRESETS = {
    # The paper's sec. 5.1 and the package's training/configs/gla_340M.json; gla-1.3B-100B is GLAConfig's defaults;
    # the heads of gla-2.7B-100B have 256 and 512 channels.
    "gla_340m": compose(embed_dim=1024, num_layers=24, tie_embeddings=True),
    "gla_1_3b": compose(embed_dim=2048, num_layers=24),
    "gla_2_7b": compose(embed_dim=2560, num_layers=32, num_heads=5),
}

MODEL_TYPES = ("gla",)
PREFIX = "model."
OLDER = {r"attn\.g_norm\.": "attn.g_norm_swish_gate.", r"embed_tokens\.": "embeddings."}
"""The norm has the first name where `fuse_norm` is off, the table had it in the first releases."""

NAMES = {
    "embed_dim": ("hidden_size", 2048),
    "num_layers": ("num_hidden_layers", 24),
    "num_heads": ("num_heads", 4),
    "vocab_size": ("vocab_size", 32000),
    "epsilon": ("norm_eps", 1e-6),
    "tie_embeddings": ("tie_word_embeddings", False),
}
"""Their attributes, with defaults, by our hyperparameters."""

OFF = {
    "feature_map": (None,),
    "use_short_conv": (False,),
    "use_output_gate": (True,),
    "clamp_min": (None,),
    "hidden_act": ("swish",),
    "elementwise_affine": (True,),
    "use_gk": (True,),
    "use_gv": (False,),
    "attn": (None,),
}
"""What we have of their choices."""

HOW = ("attn_mode", "conv_size", "conv_bias", "share_conv_kernel", "max_position_embeddings", "auto_map")
FUSED = ("fuse_norm", "fuse_swiglu", "fuse_cross_entropy", "fuse_linear_cross_entropy", "use_l2warp")
"""Attributes of how it computes, and of what is off."""


def read(attributes: Attributes) -> decoder.Config:
    """Our config from theirs. Raises ValueError on what it cannot express."""
    for name, allowed in OFF.items():
        attributes.expect(name, *allowed)
    attributes.ignore(*HOW, *FUSED)
    found = {ours: attributes.get(*theirs) for ours, theirs in NAMES.items()}
    attributes.expect("num_kv_heads", None, found["num_heads"])
    width = found["embed_dim"]
    ratio = attributes.get("hidden_ratio", 4)
    found["hidden_dim"] = attributes.get("intermediate_size", 0) or widened(width, ratio)
    for ours, theirs, share in (("key_dim", "expand_k", 0.5), ("value_dim", "expand_v", 1)):
        found[ours] = int(width * attributes.get(theirs, share))
    config = compose(**found)
    attributes.finish()
    return config


def write(config: configs.Config) -> dict:
    """Their config.json from ours. Raises ValueError on what it cannot express."""
    mixer, ffn = sublayers(config, decoder.Config, gated_linear_attention.Config, gated_mlp.Config)
    found = {
        "embed_dim": config.embed_dim,
        "num_layers": len(config.layers.blocks),
        "num_heads": mixer.num_heads,
        "vocab_size": config.vocab_size,
        "epsilon": config.norm.epsilon,
        "tie_embeddings": config.tie_embeddings,
    }
    widths = {"key_dim": mixer.num_heads * mixer.head_dim, "value_dim": mixer.num_heads * mixer.values}
    confirm(config, compose(**found, **widths, hidden_dim=ffn.hidden_dim))
    out = {"architectures": ["GLAForCausalLM"], "model_type": "gla", "intermediate_size": ffn.hidden_dim}
    out |= {NAMES[ours][0]: value for ours, value in found.items()}
    return out | {f"expand_{ours[0]}": _share(width, config.embed_dim) for ours, width in widths.items()}


def _share(part: int, whole: int) -> float:
    """The least number that times `whole` is `part` when it is rounded down."""
    share = part / whole
    return share if int(whole * share) == part else math.nextafter(share, math.inf)


def rules(config: decoder.Config) -> list[Rule]:
    """One rule a tensor."""
    out = [Rule("embedding/table", "model.embeddings.weight"), Rule("norm/scale", "model.norm.weight")]
    if not config.tie_embeddings:
        out.append(Rule("embedding/output", "lm_head.weight"))
    for i, layer in enumerate(config.layers.blocks):
        n, ours, theirs = layer.sublayers[0].num_heads, f"layers/{i}", f"model.layers.{i}"
        mixer, attn = f"{ours}/gated_linear_attention", f"{theirs}.attn"
        out.append(Rule(f"{mixer}_norm/scale", f"{theirs}.attn_norm.weight"))
        for name in ("query", "key", "value", "gate"):
            out.append(Rule(f"{mixer}/{name}", f"{attn}.{name[0]}_proj.weight", "(n h) d -> d n h", n=n))
        out.append(Rule(f"{mixer}/decay_down", f"{attn}.gk_proj.0.weight", "r d -> d r"))
        out.append(Rule(f"{mixer}/decay_up", f"{attn}.gk_proj.1.weight", "(n h) r -> r n h", n=n))
        out.append(Rule(f"{mixer}/decay_bias", f"{attn}.gk_proj.1.bias", "(n h) -> n h", n=n))
        out.append(Rule(f"{mixer}/norm", f"{attn}.g_norm_swish_gate.weight"))
        out.append(Rule(f"{mixer}/out", f"{attn}.o_proj.weight", "d (n h) -> n h d", n=n))
        out.append(Rule(f"{ours}/gated_mlp_norm/scale", f"{theirs}.mlp_norm.weight"))
        for name in ("gate", "up", "down"):
            out += linear(f"{ours}/gated_mlp/{name}", f"{theirs}.mlp.{name}_proj", bias=False)
    return out


def ignored(config: decoder.Config) -> tuple[str, ...]:
    """Nothing."""
    return ()


def duplicates(config: decoder.Config) -> dict[str, str]:
    """The table again where it is tied."""
    return {"lm_head.weight": "model.embeddings.weight"} if config.tie_embeddings else {}
