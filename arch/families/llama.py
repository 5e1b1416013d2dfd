"""LLaMA: a decoder with RMSNorm before each sublayer, rotary positions, SwiGLU and no biases.

    x <- x + attention(norm(x));   x <- x + W_down (silu(W_gate norm(x)) * W_up norm(x))

Touvron et al., LLaMA, 2023, arXiv 2302.13971, sec. 2.2; grouped-query attention in the largest of Touvron et al., Llama
2, 2023, arXiv 2307.09288; a larger vocabulary and slower, then scaled rotations in Llama Team, The Llama 3 Herd of
Models, 2024, arXiv 2407.21783, sec. 3.2 and 3.4.2. SmolLM2 (Allal et al., 2025, arXiv 2502.02737) and TinyLlama (Zhang
et al., 2024, arXiv 2401.02385) are LLaMAs of other sizes.
"""

from arch import config as configs
from arch.families._hyperparameters import channels_a_head, confirm, sublayers
from arch.families._vocabulary import read_activation, read_rope, write_activation, write_rope
from arch.ffns import gated_mlp
from arch.layers import block, norm, stack
from arch.layers.contract import Position
from arch.mixers import attention
from arch.models import decoder
from arch.ops.activation import Activation
from arch.positions import rope, rope_llama3
from arch.published import Attributes, Rule


def compose(
    *,
    vocab_size: int,
    embed_dim: int,
    num_layers: int,
    num_heads: int,
    hidden_dim: int,
    num_kv_heads: int = 0,
    head_dim: int = 0,
    position: Position = rope.Config(),
    epsilon: float = 1e-5,
    activation: Activation = "silu",
    attention_bias: bool = False,
    mlp_bias: bool = False,
    attention_dropout: float = 0.0,
    tie_embeddings: bool = False,
) -> decoder.Config:
    """The model; `num_kv_heads` 0 is num_heads, `head_dim` 0 is embed_dim / num_heads."""
    rms = norm.Config(kind="rms", epsilon=epsilon)
    mixer = attention.Config(
        num_heads=num_heads,
        head_dim=head_dim or channels_a_head(embed_dim, num_heads),
        num_kv_heads=num_kv_heads or num_heads,
        position=position,
        bias="all" if attention_bias else "none",
        dropout=attention_dropout,
    )
    ffn = gated_mlp.Config(hidden_dim=hidden_dim, activation=activation, bias=mlp_bias)
    return decoder.Config(
        vocab_size=vocab_size,
        embed_dim=embed_dim,
        layers=stack.Config(pattern=(block.Config(sublayers=(mixer, ffn), norm=rms),), repeats=num_layers),
        norm=rms,
        tie_embeddings=tie_embeddings,
    )


def _size(embed_dim, num_layers, num_heads, hidden_dim, **others):
    sizes = dict(embed_dim=embed_dim, num_layers=num_layers, num_heads=num_heads, hidden_dim=hidden_dim)
    return compose(**({"vocab_size": 32000} | sizes | others))


_V3 = {"vocab_size": 128256, "num_kv_heads": 8}
_ROPE3 = rope.Config(theta=500000.0)


def _long(factor):
    shape = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_length": 8192}
    return rope_llama3.Config(theta=500000.0, factor=factor, **shape)


PRESETS = {
    # LLaMA, table 2; hidden_dim is 8/3 of embed_dim, rounded up to a multiple of 256.
    "llama_7b": _size(4096, 32, 32, 11008, epsilon=1e-6),
    "llama_13b": _size(5120, 40, 40, 13824, epsilon=1e-6),
    "llama_33b": _size(6656, 60, 52, 17920, epsilon=1e-6),
    "llama_65b": _size(8192, 80, 64, 22016, epsilon=1e-6),
    # Llama 2, table 1 and sec. 2.2.
    "llama2_7b": _size(4096, 32, 32, 11008),
    "llama2_13b": _size(5120, 40, 40, 13824),
    "llama2_70b": _size(8192, 80, 64, 28672, num_kv_heads=8),
    # Llama 3, table 3; 3.1 is scaled to 128k tokens.
    "llama3_8b": _size(4096, 32, 32, 14336, **_V3, position=_ROPE3),
    "llama3_70b": _size(8192, 80, 64, 28672, **_V3, position=_ROPE3),
    "llama3_1_8b": _size(4096, 32, 32, 14336, **_V3, position=_long(8.0)),
    "llama3_1_70b": _size(8192, 80, 64, 28672, **_V3, position=_long(8.0)),
    "llama3_1_405b": _size(16384, 126, 128, 53248, **_V3, position=_long(8.0)),
    # Llama 3.2, its model card.
    "llama3_2_1b": _size(2048, 16, 32, 8192, **_V3, position=_long(32.0), tie_embeddings=True),
    "llama3_2_3b": _size(3072, 28, 24, 8192, **_V3, position=_long(32.0), tie_embeddings=True),
    # TinyLlama, table 2; SmolLM2, its model card.
    "tinyllama_1_1b": _size(2048, 22, 32, 5632, num_kv_heads=4),
    "smollm2_135m": _size(
        576, 30, 9, 1536, vocab_size=49152, num_kv_heads=3, position=rope.Config(theta=100000.0), tie_embeddings=True
    ),
}

MODEL_TYPES = ("llama",)
PREFIX = "model."


NAMES = {
    "vocab_size": "vocab_size",
    "embed_dim": "hidden_size",
    "num_layers": "num_hidden_layers",
    "num_heads": "num_attention_heads",
    "num_kv_heads": "num_key_value_heads",
    "head_dim": "head_dim",
    "hidden_dim": "intermediate_size",
    "epsilon": "rms_norm_eps",
    "attention_dropout": "attention_dropout",
    "tie_embeddings": "tie_word_embeddings",
}
"""Attributes that LLaMA, Mistral and Mixtral have in common, by our hyperparameters."""
DEFAULTS = {"head_dim": 0, "attention_dropout": 0.0, "tie_embeddings": False}
"""Those that may be absent in all three, with the values that they have then."""


def read_common(
    attributes: Attributes, *, num_kv_heads: int = 0, epsilon: float = 1e-6, theta: float = 10000.0
) -> dict:
    """The hyperparameters that LLaMA, Mistral and Mixtral have in common, from their attributes.

    Args:
      attributes: of the model.
      num_kv_heads: the family's default; null is num_heads in all of them, as 0 is here.
      epsilon: the family's default.
      theta: the family's default.
    """
    absent = DEFAULTS | {"num_kv_heads": num_kv_heads, "epsilon": epsilon}
    null = {"num_kv_heads": 0}
    return {
        **{ours: attributes.get(name, absent.get(ours, ...), null=null.get(ours, ...)) for ours, name in NAMES.items()},
        "position": read_rope(attributes, base=theta),
        "activation": read_activation(attributes, "hidden_act", "silu"),
    }


def common(config: decoder.Config) -> dict:
    """The same hyperparameters, from a config whose first layer is (attention, gated_mlp) or (attention, moe)."""
    layer = config.layers.blocks[0]
    mixer, ffn = layer.sublayers
    return {
        "vocab_size": config.vocab_size,
        "embed_dim": config.embed_dim,
        "num_layers": len(config.layers.blocks),
        "num_heads": mixer.num_heads,
        "num_kv_heads": mixer.kv_heads,
        "head_dim": mixer.head_dim,
        "hidden_dim": ffn.hidden_dim,
        "epsilon": layer.norm.epsilon,
        "attention_dropout": mixer.dropout,
        "tie_embeddings": config.tie_embeddings,
        "position": mixer.position,
        "activation": ffn.activation,
    }


def write_common(found: dict) -> dict:
    """Their attributes of the same hyperparameters."""
    out = {theirs: found[ours] for ours, theirs in NAMES.items()}
    return out | write_rope(found["position"]) | {"hidden_act": write_activation(found["activation"])}


def read(attributes: Attributes) -> decoder.Config:
    """Our config from theirs. Raises ValueError on what it cannot express."""
    attributes.expect("rope_interleaved", False)  # SmolLM2's
    attributes.ignore("pretraining_tp", "max_sequence_length", "is_llama_config", "transformers.js_config")
    biases = {name: attributes.get(name, False) for name in ("attention_bias", "mlp_bias")}
    config = compose(**read_common(attributes), **biases)
    attributes.finish()
    return config


def write(config: configs.Config) -> dict:
    """Their config.json from ours. Raises ValueError on what it cannot express."""
    mixer, ffn = sublayers(config, decoder.Config, attention.Config, gated_mlp.Config)
    found, biases = common(config), {"attention_bias": mixer.bias == "all", "mlp_bias": ffn.bias}
    confirm(config, compose(**found, **biases))
    channels_a_head(config.embed_dim, mixer.num_heads)  # transformers asks for it even where it does not hold
    return {"architectures": ["LlamaForCausalLM"], "model_type": "llama"} | write_common(found) | biases


def rules(config: decoder.Config) -> list[Rule]:
    """One rule a tensor."""
    out = around(config)
    for i, layer in enumerate(config.layers.blocks):
        out += attention_rules(i, layer.sublayers[0])
        for name in ("gate", "up", "down"):
            ours, theirs = f"layers/{i}/gated_mlp/{name}", f"model.layers.{i}.mlp.{name}_proj"
            out.append(Rule(ours, f"{theirs}.weight", "o i -> i o"))
            if layer.sublayers[1].bias:
                out.append(Rule(f"{ours}_bias", f"{theirs}.bias"))
        out.append(Rule(f"layers/{i}/gated_mlp_norm/scale", f"model.layers.{i}.post_attention_layernorm.weight"))
    return out


def around(config: decoder.Config) -> list[Rule]:
    """The rules of what stands before and behind the layers."""
    out = [Rule("embedding/table", "model.embed_tokens.weight"), Rule("norm/scale", "model.norm.weight")]
    return out if config.tie_embeddings else out + [Rule("embedding/output", "lm_head.weight")]


def attention_rules(i: int, mixer: attention.Config) -> list[Rule]:
    """The rules of layer i's attention and the norm before it."""
    ours, theirs = f"layers/{i}/attention", f"model.layers.{i}.self_attn"
    out = [Rule(f"{ours}_norm/scale", f"model.layers.{i}.input_layernorm.weight")]
    for name, heads in (("query", mixer.num_heads), ("key", mixer.kv_heads), ("value", mixer.kv_heads)):
        out.append(Rule(f"{ours}/{name}", f"{theirs}.{name[0]}_proj.weight", "(n h) d -> d n h", n=heads))
        if mixer.bias != "none":
            out.append(Rule(f"{ours}/{name}_bias", f"{theirs}.{name[0]}_proj.bias", "(n h) -> n h", n=heads))
    out.append(Rule(f"{ours}/out", f"{theirs}.o_proj.weight", "d (n h) -> n h d", n=mixer.num_heads))
    if mixer.bias == "all":
        out.append(Rule(f"{ours}/out_bias", f"{theirs}.o_proj.bias"))
    return out


def ignored(config: decoder.Config) -> tuple[str, ...]:
    """Frequencies that older files hold."""
    return (r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq",)


def duplicates(config: decoder.Config) -> dict[str, str]:
    """The table again where it is tied."""
    return {"lm_head.weight": "model.embed_tokens.weight"} if config.tie_embeddings else {}
