"""BigBird-Pegasus: summaries of rows of 4096 tokens, by an encoder of BigBird's blocks and a decoder that sees all.

    x_0 = sqrt(d) W_e[token] + W_p[position];  x <- x + f(norm(x)), f = attention (of the target to the source too), mlp

Zaheer et al., Big Bird: Transformers for Longer Sequences, 2020, arXiv 2007.14062, sec. 4: the model for summaries, of
the size of the large PEGASUS (Zhang et al., 2019, arXiv 1912.08777). Encoder and decoder share the ids' table, which
also makes the logits; each has learned positions of its own. GELU is what transformers reads the released weights with;
the released script for them says ReLU. Of random blocks outside training see `arch.families.bigbird`.
"""

from typing import Any, Literal

from arch import config as configs
from arch.families._hyperparameters import channels_a_head, confirm
from arch.families._rules import linear, norm_rules
from arch.families._vocabulary import read_activation, write_activation
from arch.families.bigbird import read_blocks, seeded, write_blocks
from arch.ffns import mlp
from arch.layers import block, embedding, norm, stack
from arch.mixers import attention, bigbird_attention, cross_attention
from arch.models import encoder_decoder
from arch.ops.activation import Activation
from arch.positions import learned, none
from arch.published import Attributes, Rule


def compose(
    *,
    embed_dim: int,
    num_layers: int,
    num_heads: int,
    hidden_dim: int,
    decoder_layers: int = 0,
    vocab_size: int = 96103,
    length: int = 4096,
    activation: Activation = "gelu_tanh",
    bias: bool = False,
    scaled_embedding: bool = True,
    dropout: float = 0.1,
    attention_dropout: float = 0.0,
    blocks: Literal["sparse", "full"] = "sparse",
    block_size: int = 64,
    random: int = 3,
    evaluation: Literal["drawn", "first"] = "drawn",
) -> encoder_decoder.Config:
    """The model; `decoder_layers` 0 is num_layers, `bias` that of attention; of the blocks see `bigbird.compose`."""
    layer_norm = norm.Config(kind="layer", epsilon=1e-5, bias=True)
    widths = {"num_heads": num_heads, "head_dim": channels_a_head(embed_dim, num_heads)}
    dense = widths | {"bias": "all" if bias else "none", "dropout": attention_dropout}
    own = attention.Config(**dense, position=none.Config())
    sparse = {"block_size": block_size, "random": random, "evaluation": evaluation, "longest": length}

    def layer(*mixers: Any) -> block.Config:
        ffn = mlp.Config(hidden_dim=hidden_dim, activation=activation, bias=True)
        return block.Config(sublayers=(*mixers, ffn), norm=layer_norm, dropout=dropout)

    if blocks == "full":
        encoder = stack.Config(pattern=(layer(own.replace(causal=False)),), repeats=num_layers)
    else:
        encoder = seeded(layer(bigbird_attention.Config(**widths, **sparse, bias=bias)), num_layers)
    decoder = layer(own, cross_attention.Config(**dense))
    return encoder_decoder.Config(
        vocab_size=vocab_size,
        embed_dim=embed_dim,
        encoder=encoder,
        decoder=stack.Config(pattern=(decoder,), repeats=decoder_layers or num_layers),
        embedding=embedding.Config(scale=0.0 if scaled_embedding else 1.0),
        position=learned.Config(length=length),
        norm=layer_norm,
        dropout=dropout,
    )


PRESETS = {
    # The released code's pegasus_large.sh; bigbird-pegasus-large-arxiv, -pubmed and -bigpatent.
    "bigbird_pegasus_large": compose(embed_dim=1024, num_layers=16, num_heads=16, hidden_dim=4096),
}

MODEL_TYPES = ("bigbird_pegasus",)
PREFIX = "model."
NAMES = {
    "vocab_size": ("vocab_size", 96103),
    "embed_dim": ("d_model", 1024),
    "num_layers": ("encoder_layers", 16),
    "decoder_layers": ("decoder_layers", 16),
    "num_heads": ("encoder_attention_heads", 16),
    "hidden_dim": ("encoder_ffn_dim", 4096),
    "length": ("max_position_embeddings", 4096),
    "bias": ("use_bias", False),
    "scaled_embedding": ("scale_embedding", True),
    "dropout": ("dropout", 0.1),
    "attention_dropout": ("attention_dropout", 0.0),
}
"""Their attributes, with defaults, by our hyperparameters."""
DECODER = {"num_heads": ("decoder_attention_heads", 16), "hidden_dim": ("decoder_ffn_dim", 4096)}
"""Those of the decoder, which must be the encoder's."""
GENERATION = ("max_length", "min_length", "num_beams", "length_penalty", "no_repeat_ngram_size", "early_stopping")
ARCHITECTURE = "BigBirdPegasusForConditionalGeneration"


def read(attributes: Attributes) -> encoder_decoder.Config:
    """Our config from theirs. Raises ValueError on what it cannot express."""
    attributes.expect("architectures", [ARCHITECTURE])
    attributes.expect("is_encoder_decoder", True)
    attributes.expect("tie_word_embeddings", True)
    for name in ("is_decoder", "add_cross_attention"):
        attributes.expect(name, False)
    for name in ("activation_dropout", "encoder_layerdrop", "decoder_layerdrop"):
        attributes.expect(name, 0.0)
    attributes.ignore("init_std", "classifier_dropout", *GENERATION)
    found = {ours: attributes.get(*theirs) for ours, theirs in NAMES.items()}
    attributes.expect("num_hidden_layers", found["num_layers"])
    for ours, (name, default) in DECODER.items():
        if attributes.get(name, default) != found[ours]:
            raise ValueError(f"{name}={attributes.get(name, default)} must be the encoder's, {found[ours]}")
    found["activation"] = read_activation(attributes, "activation_function", "gelu_new")
    found |= read_blocks(attributes)
    attributes.finish()
    return compose(**found)


def write(config: configs.Config) -> dict:
    """Their config.json from ours. Raises ValueError on what it cannot express."""
    if not isinstance(config, encoder_decoder.Config) or not isinstance(config.position, learned.Config):
        raise ValueError("model must be an encoder_decoder with learned positions in this family")
    layer = config.encoder.blocks[0]
    if layer.labels not in (("bigbird_attention", "mlp"), ("attention", "mlp")):
        raise ValueError(f"encoder[0].sublayers={layer.labels} must be bigbird_attention or attention, and mlp")
    mixer, ffn = layer.sublayers
    found = {
        "vocab_size": config.vocab_size,
        "embed_dim": config.embed_dim,
        "num_layers": len(config.encoder.blocks),
        "decoder_layers": len(config.decoder.blocks),
        "num_heads": mixer.num_heads,
        "hidden_dim": ffn.hidden_dim,
        "length": config.position.length,
        "bias": mixer.bias in (True, "all"),
        "scaled_embedding": config.embedding.scale == 0.0,
        "dropout": layer.dropout,
        "attention_dropout": getattr(config.decoder.blocks[0].sublayers[0], "dropout", 0.0),
    }
    sparse, theirs = write_blocks(mixer)
    confirm(config, compose(**found, **sparse, activation=ffn.activation))
    out = {"model_type": "bigbird_pegasus", "architectures": [ARCHITECTURE], "is_encoder_decoder": True}
    out |= {"decoder_start_token_id": 2, "bos_token_id": 2, "eos_token_id": 1, "pad_token_id": 0} | theirs
    out |= {name: found[ours] for ours, (name, _) in (*NAMES.items(), *DECODER.items())}
    return out | {"activation_function": write_activation(ffn.activation)}


def rules(config: encoder_decoder.Config) -> list[Rule]:
    """One rule a tensor."""
    out = [Rule("embedding/table", "model.shared.weight")]
    for side, layers in (("encoder", config.encoder), ("decoder", config.decoder)):
        out.append(Rule(f"{side}/position/table", f"model.{side}.embed_positions.weight"))
        out += norm_rules(f"{side}/norm", f"model.{side}.layernorm_embedding")
        for i, layer in enumerate(layers.blocks):
            *mixers, _ = layer.sublayers
            ours, theirs = f"{side}/layers/{i}", f"model.{side}.layers.{i}"
            for mixer, name in zip(mixers, ("self_attn", "encoder_attn")):
                out += norm_rules(f"{ours}/{mixer.label}_norm", f"{theirs}.{name}_layer_norm")
                out += _mixer_rules(mixer, f"{ours}/{mixer.label}", f"{theirs}.{name}", side)
            out += norm_rules(f"{ours}/mlp_norm", f"{theirs}.final_layer_norm")
            out += linear(f"{ours}/mlp/up", f"{theirs}.fc1", bias=True)
            out += linear(f"{ours}/mlp/down", f"{theirs}.fc2", bias=True)
    return out


def _mixer_rules(mixer: Any, ours: str, theirs: str, side: str) -> list[Rule]:
    """The encoder's are called as in BERT, the decoder's as in BART."""
    result = f"{theirs}.output" if side == "encoder" else f"{theirs}.out_proj"
    out = [Rule(f"{ours}/out", f"{result}.weight", "d (n h) -> n h d", n=mixer.num_heads)]
    biased = mixer.bias in (True, "all")
    out += [Rule(f"{ours}/out_bias", f"{result}.bias")] if biased else []
    for name in ("query", "key", "value"):
        linear_name = f"{theirs}.self.{name}" if side == "encoder" else f"{theirs}.{name[0]}_proj"
        out.append(Rule(f"{ours}/{name}", f"{linear_name}.weight", "(n h) d -> d n h", n=mixer.num_heads))
        out += [Rule(f"{ours}/{name}_bias", f"{linear_name}.bias", "(n h) -> n h", n=mixer.num_heads)] if biased else []
    return out


def ignored(config: encoder_decoder.Config) -> tuple[str, ...]:
    """None."""
    return ()


def zeros(config: encoder_decoder.Config) -> tuple[str, ...]:
    """A bias of the logits that nothing has trained."""
    return ("final_logits_bias",)


def duplicates(config: encoder_decoder.Config) -> dict[str, str]:
    """The table again for encoder, decoder and logits."""
    names = ("model.encoder.embed_tokens.weight", "model.decoder.embed_tokens.weight", "lm_head.weight")
    return dict.fromkeys(names, "model.shared.weight")
