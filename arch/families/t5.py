"""T5: an encoder-decoder with RMSNorm before each sublayer, no shifts, and positions as a learned bias of the logits.

    x <- x + f(norm(x));   attention = softmax(q k^T + bias[bucket(distance)]) v;   logits = d^(-1/2) norm(x) W_e^T

Raffel et al., Exploring the Limits of Transfer Learning with a Unified Text-to-Text Transformer, 2019, arXiv
1910.10683. The bias is learned in the first layer of each stack and serves the others. Version 1.1 (Shazeer, 2020,
arXiv 2002.05202, and the released configs) gates the ffn with GELU's tanh form, and its logits have a table of their
own, unscaled.

The released code also drops entries inside the ffn and behind each stack's last norm; here dropout acts on embedded
tokens, attention weights and each sublayer's result.
"""

from collections.abc import Callable

from arch import config as configs
from arch.families._hyperparameters import confirm
from arch.families._vocabulary import ACTIVATIONS, write_activation
from arch.ffns import gated_mlp, mlp
from arch.layers import block, embedding, norm, stack
from arch.layers.contract import SublayerConfig
from arch.mixers import attention, cross_attention
from arch.models import encoder_decoder
from arch.ops.activation import Activation
from arch.positions import relative
from arch.published import Attributes, Rule


def compose(
    *,
    embed_dim: int,
    num_layers: int,
    num_heads: int,
    head_dim: int,
    hidden_dim: int,
    decoder_layers: int = 0,
    vocab_size: int = 32128,
    buckets: int = 32,
    max_distance: int = 128,
    gated: bool = False,
    activation: Activation = "relu",
    tie_embeddings: bool = True,
    epsilon: float = 1e-6,
    dropout: float = 0.1,
) -> encoder_decoder.Config:
    """The model; `decoder_layers` 0 is num_layers. The logits are scaled where the table is tied."""
    rms_norm = norm.Config(kind="rms", epsilon=epsilon)
    widths = {"num_heads": num_heads, "head_dim": head_dim, "scale": 1.0, "dropout": dropout}
    ffn = (gated_mlp if gated else mlp).Config(hidden_dim=hidden_dim, activation=activation)

    def layer(causal: bool, owner: bool) -> block.Config:
        position = relative.Config(
            buckets=buckets, max_distance=max_distance, bidirectional=not causal, owner=owner, shares=True
        )
        mixer = attention.Config(**widths, causal=causal, position=position)
        between = (cross_attention.Config(**widths),) if causal else ()
        return block.Config(sublayers=(mixer, *between, ffn), norm=rms_norm, dropout=dropout)

    def layers(causal: bool, number: int) -> stack.Config:
        first, later = layer(causal, True), layer(causal, False)
        if number == 1:
            return stack.Config(pattern=(first,))
        return stack.Config(prefix=(first,), pattern=(later,), repeats=number - 1)

    return encoder_decoder.Config(
        vocab_size=vocab_size,
        embed_dim=embed_dim,
        encoder=layers(False, num_layers),
        decoder=layers(True, decoder_layers or num_layers),
        embedding=embedding.Config(stddev=1.0),
        norm=rms_norm,
        tie_embeddings=tie_embeddings,
        dropout=dropout,
        logit_scale=embed_dim**-0.5 if tie_embeddings else 1.0,
    )


def _t5(num_layers, embed_dim, hidden_dim, num_heads, head_dim=64):
    widths = {"embed_dim": embed_dim, "hidden_dim": hidden_dim, "num_heads": num_heads, "head_dim": head_dim}
    return compose(num_layers=num_layers, **widths)


def _t5_v1_1(num_layers, embed_dim, hidden_dim, num_heads):
    widths = {"embed_dim": embed_dim, "hidden_dim": hidden_dim, "num_heads": num_heads, "head_dim": 64}
    version = {"gated": True, "activation": "gelu_tanh", "tie_embeddings": False}
    return compose(num_layers=num_layers, **widths, **version)


PRESETS = {
    # Sec. 3.7, where 60M, 220M, 770M, 3B and 11B parameters are printed.
    "t5_small": _t5(6, 512, 2048, 8),
    "t5_base": _t5(12, 768, 3072, 12),
    "t5_large": _t5(24, 1024, 4096, 16),
    "t5_3b": _t5(24, 1024, 16384, 32, 128),
    "t5_11b": _t5(24, 1024, 65536, 128, 128),
    # The released configs of version 1.1; it was pretrained without dropout, which is for fine-tuning.
    "t5_v1_1_small": _t5_v1_1(8, 512, 1024, 6),
    "t5_v1_1_base": _t5_v1_1(12, 768, 2048, 12),
    "t5_v1_1_large": _t5_v1_1(24, 1024, 2816, 16),
    "t5_v1_1_xl": _t5_v1_1(24, 2048, 5120, 32),
    "t5_v1_1_xxl": _t5_v1_1(24, 4096, 10240, 64),
}

MODEL_TYPES = ("t5",)
PREFIX = ""

NAMES = {
    "vocab_size": ("vocab_size",),
    "embed_dim": ("d_model",),
    "num_layers": ("num_layers",),
    "decoder_layers": ("num_decoder_layers", 0),
    "num_heads": ("num_heads",),
    "head_dim": ("d_kv",),
    "hidden_dim": ("d_ff",),
    "buckets": ("relative_attention_num_buckets", 32),
    "max_distance": ("relative_attention_max_distance", 128),
    "epsilon": ("layer_norm_epsilon", 1e-6),
    "dropout": ("dropout_rate", 0.1),
}
"""Their attributes, with defaults, by our hyperparameters."""


def read(attributes: Attributes) -> encoder_decoder.Config:
    """Our config from theirs. Raises ValueError on what it cannot express.

    transformers 5 writes `tie_word_embeddings` true for all, and what it was before as `scale_decoder_outputs`.
    """
    architecture = attributes.get("architectures", ["T5ForConditionalGeneration"])[0]
    if architecture not in ("T5ForConditionalGeneration", "T5WithLMHeadModel"):
        raise ValueError(f"architectures={architecture!r} must be T5ForConditionalGeneration")
    found = read_sizes(attributes)
    attributes.finish()
    return compose(**found)


def read_sizes(attributes: Attributes) -> dict:
    """What `compose` is called with, of their attributes."""
    attributes.expect("is_encoder_decoder", True)
    attributes.expect("is_decoder", False)
    attributes.ignore("n_positions", "output_past", "classifier_dropout", "is_gated_act", "dense_act_fn")
    tied, scaled = attributes.get("tie_word_embeddings", True), attributes.get("scale_decoder_outputs", True)
    gated, activation = _read_ffn(attributes.get("feed_forward_proj", "relu"))
    found = {ours: attributes.get(*theirs) for ours, theirs in NAMES.items()}
    return found | dict(gated=gated, activation=activation, tie_embeddings=tied and scaled)


def _read_ffn(name: str) -> tuple[bool, Activation]:
    """Whether the ffn is gated, and its activation: 'relu', 'gated-gelu' (the tanh form) ..."""
    if name == "gated-gelu":
        return True, "gelu_tanh"
    activation = name.removeprefix("gated-")
    if activation not in ACTIVATIONS:
        raise ValueError(f"feed_forward_proj={name!r} must be one of {', '.join(ACTIVATIONS)}, or 'gated-' and one")
    return name.startswith("gated-"), ACTIVATIONS[activation]


def write(config: configs.Config) -> dict:
    """Their config.json from ours. Raises ValueError on what it cannot express."""
    if not isinstance(config, encoder_decoder.Config):
        raise ValueError(f"model={type(config).__module__} must be an encoder_decoder in this family")
    layer = config.encoder.blocks[0]
    if layer.labels not in (("attention", "mlp"), ("attention", "gated_mlp")):
        raise ValueError(f"encoder[0].sublayers={layer.labels} must be attention and mlp or gated_mlp in this family")
    mixer, ffn = layer.sublayers
    if not isinstance(mixer.position, relative.Config):
        raise ValueError(f"position={mixer.position} must be relative in this family")
    found = {
        "vocab_size": config.vocab_size,
        "embed_dim": config.embed_dim,
        "num_layers": len(config.encoder.blocks),
        "decoder_layers": len(config.decoder.blocks),
        "num_heads": mixer.num_heads,
        "head_dim": mixer.head_dim,
        "hidden_dim": ffn.hidden_dim,
        "buckets": mixer.position.buckets,
        "max_distance": mixer.position.max_distance,
        "epsilon": layer.norm.epsilon,
        "dropout": layer.dropout,
    }
    gated, tied = isinstance(ffn, gated_mlp.Config), config.tie_embeddings
    confirm(config, compose(**found, gated=gated, activation=ffn.activation, tie_embeddings=tied))
    out = {"architectures": ["T5ForConditionalGeneration"], "model_type": "t5", "is_encoder_decoder": True}
    out |= {"decoder_start_token_id": 0, "pad_token_id": 0, "eos_token_id": 1, "tie_word_embeddings": tied}
    out |= {NAMES[ours][0]: value for ours, value in found.items()}
    return out | {"feed_forward_proj": _write_ffn(gated, ffn.activation)}


def _write_ffn(gated: bool, activation: Activation) -> str:
    if gated and activation == "gelu":
        raise ValueError("activation='gelu' must be 'gelu_tanh' in this family: that is what 'gated-gelu' means")
    name = "gelu" if gated and activation == "gelu_tanh" else write_activation(activation)
    return f"gated-{name}" if gated else name


def rules(config: encoder_decoder.Config) -> list[Rule]:
    """One rule a tensor."""
    return rules_with(mixer_rules, config)


def rules_with(of_mixer: Callable, config: encoder_decoder.Config) -> list[Rule]:
    """The same, where of_mixer(sublayer, ours, theirs) gives the rules of what is no ffn."""
    out = [Rule("embedding/table", "shared.weight")]
    if not config.tie_embeddings:
        out.append(Rule("embedding/output", "lm_head.weight"))
    for side, layers in (("encoder", config.encoder), ("decoder", config.decoder)):
        out.append(Rule(f"{side}/norm/scale", f"{side}.final_layer_norm.weight"))
        for i, layer in enumerate(layers.blocks):
            for j, (label, sublayer) in enumerate(zip(layer.labels, layer.sublayers)):
                ours, theirs = f"{side}/layers/{i}/{label}", f"{side}.block.{i}.layer.{j}"
                out.append(Rule(f"{ours}_norm/scale", f"{theirs}.layer_norm.weight"))
                out += (_ffn_rules if sublayer.label in FFNS else of_mixer)(sublayer, ours, theirs)
    return out


MIXERS = {"attention": "SelfAttention", "cross_attention": "EncDecAttention"}
FFNS = {"mlp": {"up": "wi", "down": "wo"}, "gated_mlp": {"gate": "wi_0", "up": "wi_1", "down": "wo"}}


def _ffn_rules(sublayer, ours: str, theirs: str) -> list[Rule]:
    names, ffn = FFNS[sublayer.label], f"{theirs}.DenseReluDense"
    return [Rule(f"{ours}/{name}", f"{ffn}.{wi}.weight", "o i -> i o") for name, wi in names.items()]


def mixer_rules(sublayer: SublayerConfig, ours: str, theirs: str, name: str = "") -> list[Rule]:
    """The rules of attention to the row itself, or to the encoder's; `name` is theirs where it is not T5's."""
    mixer, n = f"{theirs}.{name or MIXERS[sublayer.label]}", sublayer.num_heads
    projections = (("query", "q"), ("key", "k"), ("value", "v"))
    out = [Rule(f"{ours}/{name}", f"{mixer}.{q}.weight", "(n h) d -> d n h", n=n) for name, q in projections]
    out.append(Rule(f"{ours}/out", f"{mixer}.o.weight", "d (n h) -> n h d", n=n))
    if sublayer.label != "cross_attention" and sublayer.position.owner:
        out.append(Rule(f"{ours}/relative", f"{mixer}.relative_attention_bias.weight"))
    return out


def ignored(config: encoder_decoder.Config) -> tuple[str, ...]:
    """A bias of the first checkpoints' cross-attention that nothing reads."""
    return (r"decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight",)


def duplicates(config: encoder_decoder.Config) -> dict[str, str]:
    """The table again for encoder and decoder, and for the logits where it is tied."""
    tied = ("lm_head.weight",) if config.tie_embeddings else ()
    return dict.fromkeys(("encoder.embed_tokens.weight", "decoder.embed_tokens.weight", *tied), "shared.weight")
