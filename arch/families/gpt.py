"""GPT-2 and GPT-3: a decoder with LayerNorm before each sublayer, learned positions, biases and a tied table.

    x_0 = W_e[token] + W_p[position];   x <- x + attention(norm(x));   x <- x + W_2 gelu(W_1 norm(x))

Radford et al., Language Models are Unsupervised Multitask Learners, 2019 (GPT-2), sec. 2.3; Brown et al., Language
Models are Few-Shot Learners, 2020, arXiv 2005.14165 (GPT-3), sec. 2.1.

GPT-3 alternates dense and "locally banded sparse" attention; the paper does not say how wide the band is or how sparse,
so all layers are dense here, which has the same weights. GELU is the tanh form of GPT-2's released code. GPT-2
starts the weights that end on the residual path smaller by 1/sqrt(N), N the number of residual layers (sec. 2.3); that
is not done here: each matrix starts with a standard deviation of 1/sqrt(fan-in).
"""

from arch import config as configs
from arch.families._hyperparameters import channels_a_head, confirm, sublayers
from arch.families._rules import norm_rules
from arch.families._vocabulary import read_activation, write_activation
from arch.ffns import mlp
from arch.layers import block, norm, stack
from arch.mixers import attention
from arch.models import decoder
from arch.ops.activation import Activation
from arch.positions import learned, none
from arch.published import Attributes, Rule


def compose(
    *,
    embed_dim: int,
    num_layers: int,
    num_heads: int,
    hidden_dim: int = 0,
    vocab_size: int = 50257,
    length: int = 1024,
    epsilon: float = 1e-5,
    activation: Activation = "gelu_tanh",
    scale: float = 0.0,
    attention_dropout: float = 0.0,
    residual_dropout: float = 0.0,
    embedding_dropout: float = 0.0,
    tie_embeddings: bool = True,
) -> decoder.Config:
    """The model; `hidden_dim` 0 is 4 embed_dim, `scale` (of the logits) 0 is head_dim ** -0.5."""
    layer_norm = norm.Config(kind="layer", epsilon=epsilon, bias=True)
    mixer = attention.Config(
        num_heads=num_heads,
        head_dim=channels_a_head(embed_dim, num_heads),
        position=none.Config(),
        scale=scale,
        bias="all",
        dropout=attention_dropout,
    )
    ffn = mlp.Config(hidden_dim=hidden_dim or 4 * embed_dim, activation=activation, bias=True)
    layer = block.Config(sublayers=(mixer, ffn), norm=layer_norm, dropout=residual_dropout)
    return decoder.Config(
        vocab_size=vocab_size,
        embed_dim=embed_dim,
        layers=stack.Config(pattern=(layer,), repeats=num_layers),
        position=learned.Config(length=length),
        norm=layer_norm,
        tie_embeddings=tie_embeddings,
        dropout=embedding_dropout,
    )


def _gpt2(num_layers, embed_dim, num_heads):
    dropout = {name: 0.1 for name in ("attention_dropout", "residual_dropout", "embedding_dropout")}
    return compose(num_layers=num_layers, embed_dim=embed_dim, num_heads=num_heads, **dropout)


def _gpt3(num_layers, embed_dim, num_heads):
    return compose(num_layers=num_layers, embed_dim=embed_dim, num_heads=num_heads, length=2048)


PRESETS = {
    # GPT-2, table 2; heads and dropout as in the released configs.
    "gpt2_small": _gpt2(12, 768, 12),
    "gpt2_medium": _gpt2(24, 1024, 16),
    "gpt2_large": _gpt2(36, 1280, 20),
    "gpt2_xl": _gpt2(48, 1600, 25),
    # GPT-3, table 2.1. It prints 24 heads of 128 for XL and a width of 5140 for 13B; its own counts (table D.1: 1,320M
    # and 12,850M) are those of 16 heads and of 5120.
    "gpt3_small": _gpt3(12, 768, 12),
    "gpt3_medium": _gpt3(24, 1024, 16),
    "gpt3_large": _gpt3(24, 1536, 16),
    "gpt3_xl": _gpt3(24, 2048, 16),
    "gpt3_2_7b": _gpt3(32, 2560, 32),
    "gpt3_6_7b": _gpt3(32, 4096, 32),
    "gpt3_13b": _gpt3(40, 5120, 40),
    "gpt3_175b": _gpt3(96, 12288, 96),
}

MODEL_TYPES = ("gpt2",)
PREFIX = "transformer."


NAMES = {
    "vocab_size": ("vocab_size",),
    "embed_dim": ("n_embd",),
    "num_layers": ("n_layer",),
    "num_heads": ("n_head",),
    "hidden_dim": ("n_inner", 0),
    "length": ("n_positions",),
    "epsilon": ("layer_norm_epsilon", 1e-5),
    "attention_dropout": ("attn_pdrop", 0.1),
    "residual_dropout": ("resid_pdrop", 0.1),
    "embedding_dropout": ("embd_pdrop", 0.1),
    "tie_embeddings": ("tie_word_embeddings", True),
}
"""Their attributes, with defaults, by our hyperparameters."""


def read(attributes: Attributes) -> decoder.Config:
    """Our config from theirs. Raises ValueError on what it cannot express."""
    attributes.expect("scale_attn_by_inverse_layer_idx", False)
    attributes.expect("add_cross_attention", False)
    attributes.ignore("n_ctx", "reorder_and_upcast_attn", "summary_type", "summary_use_proj", "summary_activation")
    attributes.ignore("summary_proj_to_labels", "summary_first_dropout")
    config = compose(
        **{ours: attributes.get(*theirs) for ours, theirs in NAMES.items()},
        activation=read_activation(attributes, "activation_function", "gelu_new"),
        scale=0.0 if attributes.get("scale_attn_weights", True) else 1.0,
    )
    attributes.finish()
    return config


def write(config: configs.Config) -> dict:
    """Their config.json from ours. Raises ValueError on what it cannot express."""
    mixer, ffn = sublayers(config, decoder.Config, attention.Config, mlp.Config)
    if not isinstance(config.position, learned.Config):
        raise ValueError(f"position={config.position} must be learned in this family")
    layer = config.layers.blocks[0]
    found = {
        "vocab_size": config.vocab_size,
        "embed_dim": config.embed_dim,
        "num_layers": len(config.layers.blocks),
        "num_heads": mixer.num_heads,
        "hidden_dim": ffn.hidden_dim,
        "length": config.position.length,
        "epsilon": layer.norm.epsilon,
        "attention_dropout": mixer.dropout,
        "residual_dropout": layer.dropout,
        "embedding_dropout": config.dropout,
        "tie_embeddings": config.tie_embeddings,
    }
    scaled = mixer.scale != 1.0
    confirm(config, compose(**found, activation=ffn.activation, scale=0.0 if scaled else 1.0))
    out = {"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2"}
    out |= {NAMES[ours][0]: value for ours, value in found.items()}
    return out | {"activation_function": write_activation(ffn.activation), "scale_attn_weights": scaled}


def rules(config: decoder.Config) -> list[Rule]:
    """One rule a tensor. Theirs multiply from the right ("Conv1D"): [in out]; query, key and value are one tensor."""
    out = [Rule("embedding/table", "transformer.wte.weight"), Rule("position/table", "transformer.wpe.weight")]
    out += norm_rules("norm", "transformer.ln_f")
    if not config.tie_embeddings:
        out.append(Rule("embedding/output", "lm_head.weight"))
    for i, layer in enumerate(config.layers.blocks):
        heads = layer.sublayers[0].num_heads
        ours, theirs = f"layers/{i}", f"transformer.h.{i}"
        mixer, fused = f"{ours}/attention", [f"{ours}/attention/{name}" for name in ("query", "key", "value")]
        biases = [f"{name}_bias" for name in fused]
        out += norm_rules(f"{mixer}_norm", f"{theirs}.ln_1") + norm_rules(f"{ours}/mlp_norm", f"{theirs}.ln_2")
        out += [
            Rule(fused, f"{theirs}.attn.c_attn.weight", "d (c n h) -> c d n h", c=3, n=heads),
            Rule(biases, f"{theirs}.attn.c_attn.bias", "(c n h) -> c n h", c=3, n=heads),
            Rule(f"{mixer}/out", f"{theirs}.attn.c_proj.weight", "(n h) d -> n h d", n=heads),
            Rule(f"{mixer}/out_bias", f"{theirs}.attn.c_proj.bias"),
        ]
        for name, conv in (("up", "c_fc"), ("down", "c_proj")):
            out.append(Rule(f"{ours}/mlp/{name}", f"{theirs}.mlp.{conv}.weight"))
            out.append(Rule(f"{ours}/mlp/{name}_bias", f"{theirs}.mlp.{conv}.bias"))
    return out


def ignored(config: decoder.Config) -> tuple[str, ...]:
    """The causal mask that older files hold."""
    return (r"transformer\.h\.\d+\.attn\.(masked_)?bias",)


def duplicates(config: decoder.Config) -> dict[str, str]:
    """The table again where it is tied."""
    return {"lm_head.weight": "transformer.wte.weight"} if config.tie_embeddings else {}
