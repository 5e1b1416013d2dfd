"""BLOOM: a GPT whose logits fall linearly with distance (ALiBi) in place of position vectors, with a norm on its input.

    x_0 = norm(W_e[token]);   x <- x + attention(norm(x)), logits - slope_n * distance;   x <- x + W_2 gelu(W_1 norm(x))

BigScience Workshop, BLOOM: A 176B-Parameter Open-Access Multilingual Language Model, 2022, arXiv 2211.05100, sec. 3.2
(the norm: Dettmers et al., 2021, arXiv 2110.02861; ALiBi: Press et al., 2021, arXiv 2108.12409). GELU is the tanh form.
"""

from arch import config as configs
from arch.families._hyperparameters import channels_a_head, confirm, sublayers
from arch.families._rules import fused, linear, norm_rules
from arch.ffns import mlp
from arch.layers import block, norm, stack
from arch.mixers import attention
from arch.models import decoder
from arch.positions import alibi
from arch.published import Attributes, Rule


def compose(
    *,
    embed_dim: int,
    num_layers: int,
    num_heads: int,
    vocab_size: int = 250880,
    epsilon: float = 1e-5,
    attention_dropout: float = 0.0,
    residual_dropout: float = 0.0,
    tie_embeddings: bool = True,
) -> decoder.Config:
    """The model; 250680 ids are padded to 250880."""
    layer_norm = norm.Config(kind="layer", epsilon=epsilon, bias=True)
    mixer = attention.Config(
        num_heads=num_heads,
        head_dim=channels_a_head(embed_dim, num_heads),
        position=alibi.Config(),
        bias="all",
        dropout=attention_dropout,
    )
    ffn = mlp.Config(hidden_dim=4 * embed_dim, activation="gelu_tanh", bias=True)
    layer = block.Config(sublayers=(mixer, ffn), norm=layer_norm, dropout=residual_dropout)
    return decoder.Config(
        vocab_size=vocab_size,
        embed_dim=embed_dim,
        layers=stack.Config(pattern=(layer,), repeats=num_layers),
        embedding_norm=True,
        norm=layer_norm,
        tie_embeddings=tie_embeddings,
    )


PRESETS = {
    # The paper's table 3.
    "bloom_560m": compose(num_layers=24, embed_dim=1024, num_heads=16),
    "bloom_1_1b": compose(num_layers=24, embed_dim=1536, num_heads=16),
    "bloom_1_7b": compose(num_layers=24, embed_dim=2048, num_heads=16),
    "bloom_3b": compose(num_layers=30, embed_dim=2560, num_heads=32),
    "bloom_7_1b": compose(num_layers=30, embed_dim=4096, num_heads=32),
    "bloom_176b": compose(num_layers=70, embed_dim=14336, num_heads=112),
}

MODEL_TYPES = ("bloom",)
PREFIX = "transformer."

OF_NO_CONSEQUENCE = (
    "bias_dropout_fusion",
    "masked_softmax_fusion",
    "attention_softmax_in_fp32",
    "offset_alibi",
    "seq_length",
    "skip_bias_add",
    "skip_bias_add_qkv",
)
"""Attributes of the first releases, about how things are computed."""


def read(attributes: Attributes) -> decoder.Config:
    """Our config from theirs. Raises ValueError on what it cannot express."""
    attributes.expect("apply_residual_connection_post_layernorm", False)
    attributes.expect("n_inner", None)
    attributes.ignore("pretraining_tp", "slow_but_exact", *OF_NO_CONSEQUENCE)
    config = compose(
        embed_dim=attributes.get("hidden_size", attributes.get("n_embed", 0) or ...),
        num_layers=attributes.get("n_layer", attributes.get("num_hidden_layers", 0) or ...),
        num_heads=attributes.get("n_head", attributes.get("num_attention_heads", 0) or ...),
        vocab_size=attributes.get("vocab_size"),
        epsilon=attributes.get("layer_norm_epsilon", 1e-5),
        attention_dropout=attributes.get("attention_dropout", 0.0),
        residual_dropout=attributes.get("hidden_dropout", 0.0),
        tie_embeddings=attributes.get("tie_word_embeddings", True),
    )
    attributes.finish()
    return config


def write(config: configs.Config) -> dict:
    """Their config.json from ours. Raises ValueError on what it cannot express."""
    mixer, _ = sublayers(config, decoder.Config, attention.Config, mlp.Config)
    found = {
        "embed_dim": config.embed_dim,
        "num_layers": len(config.layers.blocks),
        "num_heads": mixer.num_heads,
        "vocab_size": config.vocab_size,
        "epsilon": config.norm.epsilon,
        "tie_embeddings": config.tie_embeddings,
    }
    confirm(config, compose(**found))
    return {
        "architectures": ["BloomForCausalLM"],
        "model_type": "bloom",
        "hidden_size": found["embed_dim"],
        "n_layer": found["num_layers"],
        "n_head": found["num_heads"],
        "vocab_size": found["vocab_size"],
        "layer_norm_epsilon": found["epsilon"],
        "attention_dropout": mixer.dropout,
        "hidden_dropout": config.layers.blocks[0].dropout,
        "tie_word_embeddings": found["tie_embeddings"],
    }


def rules(config: decoder.Config) -> list[Rule]:
    """One rule a tensor; query, key and value are one, head by head."""
    out = [Rule("embedding/table", "transformer.word_embeddings.weight")]
    out += norm_rules("embedding_norm", "transformer.word_embeddings_layernorm")
    out += norm_rules("norm", "transformer.ln_f")
    if not config.tie_embeddings:
        out.append(Rule("embedding/output", "lm_head.weight"))
    for i, layer in enumerate(config.layers.blocks):
        ours, theirs, mixer = f"layers/{i}", f"transformer.h.{i}", layer.sublayers[0]
        out += norm_rules(f"{ours}/attention_norm", f"{theirs}.input_layernorm")
        out += norm_rules(f"{ours}/mlp_norm", f"{theirs}.post_attention_layernorm")
        out += fused(f"{ours}/attention", f"{theirs}.self_attention", mixer)
        out += linear(f"{ours}/mlp/up", f"{theirs}.mlp.dense_h_to_4h", bias=True)
        out += linear(f"{ours}/mlp/down", f"{theirs}.mlp.dense_4h_to_h", bias=True)
    return out


def ignored(config: decoder.Config) -> tuple[str, ...]:
    """Nothing."""
    return ()


def duplicates(config: decoder.Config) -> dict[str, str]:
    """The table again where it is tied."""
    return {"lm_head.weight": "transformer.word_embeddings.weight"} if config.tie_embeddings else {}
