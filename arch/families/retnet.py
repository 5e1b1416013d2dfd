"""RetNet: layers of retention and of a perceptron, each behind a norm.

    x <- x + retention(norm(x));   x <- x + W_2 gelu(W_1 norm(x))

Sun et al., Retentive Network: A Successor to Transformer for Large Language Models, 2023, arXiv 2307.08621, sec. 2.3
and 3.1: the perceptron has 2 embed_dim channels, so that a layer has 12 embed_dim^2 weights, like a Transformer's. The
retention itself is `arch/mixers/retention.py`. The paper published no weights. Those read and written here are of its
code, the package torchscale (0.3.0), with RMSNorm, W_2 (gelu(W_1 x) * W_3 x) and rates of its own; its config.json
holds the arguments of RetNetConfig and `"model_type": "torchscale_retnet"`.
"""

from typing import Literal

from arch import config as configs
from arch.families._hyperparameters import channels_a_head, confirm, sublayers
from arch.families._rules import linear
from arch.ffns import gated_mlp, mlp
from arch.layers import block, embedding, norm, stack
from arch.mixers import retention
from arch.models import decoder
from arch.positions import rope
from arch.published import Attributes, Rule


def compose(
    *,
    embed_dim: int,
    num_layers: int,
    num_heads: int,
    vocab_size: int = 50257,
    value_dim: int = 0,
    hidden_dim: int = 0,
    rates: Literal["octaves", "even"] = "even",
    kind: Literal["layer", "rms"] = "layer",
    epsilon: float = 1e-5,
    ffn: Literal["mlp", "gated_mlp"] = "mlp",
    activation: Literal["gelu", "silu"] = "gelu",
    embedding_scale: float = 1.0,
    embedding_norm: bool = False,
    tie_embeddings: bool = True,
) -> decoder.Config:
    """The model; `value_dim`, of all heads, and `hidden_dim` 0 are 2 embed_dim; `kind` and `epsilon` are of all norms.

    Rotations are those of torchscale, of wavelengths from 2 pi to 20000 pi, both among them.
    """
    if (head_dim := channels_a_head(embed_dim, num_heads)) < 4:
        raise ValueError(f"embed_dim={embed_dim} must give each of num_heads={num_heads} at least 4 channels")
    layer_norm = norm.Config(kind=kind, epsilon=epsilon, bias=kind == "layer")
    mixer = retention.Config(
        num_heads=num_heads,
        head_dim=head_dim,
        value_dim=channels_a_head(value_dim or 2 * embed_dim, num_heads),
        position=rope.Config(theta=10000.0 ** (head_dim / (head_dim - 2)), pairing="interleaved"),
        rates=rates,
        epsilon=epsilon,
    )
    perceptron = {"mlp": mlp.Config, "gated_mlp": gated_mlp.Config}[ffn]
    channels = perceptron(hidden_dim=hidden_dim or 2 * embed_dim, activation=activation)
    return decoder.Config(
        vocab_size=vocab_size,
        embed_dim=embed_dim,
        layers=stack.Config(pattern=(block.Config(sublayers=(mixer, channels), norm=layer_norm),), repeats=num_layers),
        embedding=embedding.Config(scale=embedding_scale),
        embedding_norm=embedding_norm,
        norm=layer_norm,
        tie_embeddings=tie_embeddings,
    )


PRESETS = {
    # Table 2 and sec. 3.1: 256 channels a head. The vocabulary, which the paper does not say, is GPT-2's here.
    "retnet_1_3b": compose(num_layers=24, embed_dim=2048, num_heads=8),
    "retnet_2_7b": compose(num_layers=32, embed_dim=2560, num_heads=10),
    "retnet_6_7b": compose(num_layers=32, embed_dim=4096, num_heads=16),
}

MODEL_TYPES = ("torchscale_retnet",)
PREFIX = ""

NAMES = {
    "embed_dim": ("decoder_embed_dim", 768),
    "num_layers": ("decoder_layers", 12),
    "num_heads": ("decoder_retention_heads", 3),
    "vocab_size": ("vocab_size",),
    "value_dim": ("decoder_value_embed_dim", 1280),
    "hidden_dim": ("decoder_ffn_embed_dim", 1280),
    "epsilon": ("layernorm_eps", 1e-6),
    "embedding_norm": ("layernorm_embedding", False),
    "tie_embeddings": ("share_decoder_input_output_embed", False),
}
"""Their arguments, with defaults, by our hyperparameters."""

ACTIVATIONS = {"gelu": "gelu", "swish": "silu"}
"""Ours by their names."""

RELEASED = dict(rates="octaves", kind="rms", ffn="gated_mlp")
"""What all of torchscale's have."""


def read(attributes: Attributes) -> decoder.Config:
    """Our config from the arguments of RetNetConfig. Raises ValueError on what it cannot express."""
    for name, value in (("decoder_normalize_before", True), ("moe_freq", 0), ("deepnorm", False), ("multiway", False)):
        attributes.expect(name, value)
    attributes.expect("no_output_layer", False)
    attributes.ignore("subln", "max_target_positions", "chunkwise_recurrent", "recurrent_chunk_size")
    attributes.ignore("dropout", "drop_path_rate", "activation_dropout", "checkpoint_activations", "fsdp", "ddp_rank")
    found = {ours: attributes.get(*theirs) for ours, theirs in NAMES.items()}
    activation = attributes.get("activation_fn", "gelu")
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation_fn={activation!r} must be one of {', '.join(ACTIVATIONS)}")
    scale = 1.0 if attributes.get("no_scale_embedding", True) else 0.0
    config = compose(**found, **RELEASED, activation=ACTIVATIONS[activation], embedding_scale=scale)
    attributes.finish()
    return config


def write(config: configs.Config) -> dict:
    """The arguments of RetNetConfig from our config. Raises ValueError on what it cannot express."""
    mixer, ffn = sublayers(config, decoder.Config, retention.Config, gated_mlp.Config)
    found = {
        "embed_dim": config.embed_dim,
        "num_layers": len(config.layers.blocks),
        "num_heads": mixer.num_heads,
        "vocab_size": config.vocab_size,
        "value_dim": mixer.num_heads * mixer.values,
        "hidden_dim": ffn.hidden_dim,
        "epsilon": config.norm.epsilon,
        "embedding_norm": config.embedding_norm,
        "tie_embeddings": config.tie_embeddings,
    }
    scale = 1.0 if config.embedding.scale == 1.0 else 0.0
    confirm(config, compose(**found, **RELEASED, activation=ffn.activation, embedding_scale=scale))
    out = {"model_type": "torchscale_retnet"} | {NAMES[ours][0]: value for ours, value in found.items()}
    out["activation_fn"] = next(theirs for theirs, ours in ACTIVATIONS.items() if ours == ffn.activation)
    return out | {"no_scale_embedding": scale == 1.0}


def rules(config: decoder.Config) -> list[Rule]:
    """One rule a tensor."""
    out = [Rule("embedding/table", "embed_tokens.weight"), Rule("norm/scale", "layer_norm.weight")]
    if config.embedding_norm:
        out.append(Rule("embedding_norm/scale", "layernorm_embedding.weight"))
    if not config.tie_embeddings:
        out.append(Rule("embedding/output", "output_projection.weight"))
    for i, layer in enumerate(config.layers.blocks):
        n, ours, theirs = layer.sublayers[0].num_heads, f"layers/{i}", f"layers.{i}"
        out.append(Rule(f"{ours}/retention_norm/scale", f"{theirs}.retention_layer_norm.weight"))
        for name in ("query", "key", "value", "gate"):
            there = f"{theirs}.retention.{name[0]}_proj.weight"
            out.append(Rule(f"{ours}/retention/{name}", there, "(n h) d -> d n h", n=n))
        out.append(Rule(f"{ours}/retention/out", f"{theirs}.retention.out_proj.weight", "d (n h) -> n h d", n=n))
        out.append(Rule(f"{ours}/gated_mlp_norm/scale", f"{theirs}.final_layer_norm.weight"))
        for name, there in (("gate", "fc1"), ("up", "gate"), ("down", "fc2")):
            out += linear(f"{ours}/gated_mlp/{name}", f"{theirs}.ffn.{there}", bias=False)
    return out


def ignored(config: decoder.Config) -> tuple[str, ...]:
    """Angles and decays."""
    return (r"retnet_rel_pos\.(angle|decay)",)


def duplicates(config: decoder.Config) -> dict[str, str]:
    """The table again where it is tied."""
    return {"output_projection.weight": "embed_tokens.weight"} if config.tie_embeddings else {}
