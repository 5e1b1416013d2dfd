"""Mixtral: Mistral with the feed-forward sublayer replaced by eight experts, of which each token uses two.

    x <- x + attention(norm(x));   x <- x + sum_{i in top 2} w_i swiglu_i(norm(x)),   w = softmax of the two logits

Jiang et al., Mixtral of Experts, 2024, arXiv 2401.04088, sec. 2. The softmax runs over the chosen logits alone, which
is the softmax over all, renormalised. The paper names no loss of the router's: the presets have the weights of the
released configs (`router_aux_loss_coef`), of each layer's f.P; what is read has none.
"""

from arch import config as configs
from arch.families._hyperparameters import channels_a_head, confirm, sublayers
from arch.families.llama import PREFIX, around, attention_rules, common, duplicates, ignored, read_common, write_common
from arch.ffns import moe
from arch.layers import block, norm, stack
from arch.layers.contract import Position
from arch.mixers import attention
from arch.models import decoder
from arch.ops.activation import Activation
from arch.positions import rope
from arch.published import Attributes, Rule

__all__ = ["MODEL_TYPES", "PREFIX", "PRESETS", "compose", "duplicates", "ignored", "read", "rules", "write"]


def compose(
    *,
    vocab_size: int,
    embed_dim: int,
    num_layers: int,
    num_heads: int,
    hidden_dim: int,
    num_experts: int = 8,
    top_k: int = 2,
    num_kv_heads: int = 0,
    head_dim: int = 0,
    window: int = 0,
    position: Position = rope.Config(theta=1e6),
    epsilon: float = 1e-5,
    activation: Activation = "silu",
    attention_dropout: float = 0.0,
    balance_weight: float = 0.0,
    z_weight: float = 0.0,
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
    experts = moe.Config(
        num_experts=num_experts,
        top_k=top_k,
        hidden_dim=hidden_dim,
        activation=activation,
        balance_weight=balance_weight,
        z_weight=z_weight,
    )
    return decoder.Config(
        vocab_size=vocab_size,
        embed_dim=embed_dim,
        layers=stack.Config(pattern=(block.Config(sublayers=(mixer, experts), norm=rms),), repeats=num_layers),
        norm=rms,
        tie_embeddings=tie_embeddings,
    )


_8X7B = dict(embed_dim=4096, num_layers=32, num_heads=32, num_kv_heads=8, hidden_dim=14336, vocab_size=32000)
_8X22B = dict(embed_dim=6144, num_layers=56, num_heads=48, num_kv_heads=8, hidden_dim=16384, vocab_size=32768)

PRESETS = {
    # Mixtral of Experts, table 1; the larger as in its model card, with the vocabulary of its v0.3.
    "mixtral_8x7b": compose(**_8X7B, balance_weight=0.02),
    "mixtral_8x22b": compose(**_8X22B, balance_weight=0.001),
}

MODEL_TYPES = ("mixtral",)


def read(attributes: Attributes) -> decoder.Config:
    """Our config from theirs, without any loss of the router's: their balance loss, which `output_router_logits` turns
    on, is a mean over all layers together, ours is by layer.

    Raises:
      ValueError: something in it cannot be expressed.
    """
    attributes.ignore("output_router_logits", "router_aux_loss_coef")
    attributes.expect("router_jitter_noise", 0.0)
    config = compose(
        **read_common(attributes, num_kv_heads=8, epsilon=1e-5, theta=1e6),
        num_experts=attributes.get("num_local_experts"),
        top_k=attributes.get("num_experts_per_tok"),
        window=attributes.get("sliding_window", 0),
    )
    attributes.finish()
    return config


def write(config: configs.Config) -> dict:
    """Their config.json from ours. Raises ValueError on what it cannot express."""
    mixer, ffn = sublayers(config, decoder.Config, attention.Config, moe.Config)
    found = common(config)
    confirm(config, compose(**found, window=mixer.window, num_experts=ffn.num_experts, top_k=ffn.top_k))
    head = {"architectures": ["MixtralForCausalLM"], "model_type": "mixtral"}
    experts = {"num_local_experts": ffn.num_experts, "num_experts_per_tok": ffn.top_k}
    return head | write_common(found) | experts | {"sliding_window": mixer.window or None}


def rules(config: decoder.Config) -> list[Rule]:
    """One rule a tensor, and one for each of the experts' three matrices, which have a tensor an expert."""
    out = around(config)
    for i, layer in enumerate(config.layers.blocks):
        out += attention_rules(i, layer.sublayers[0])
        ours, theirs = f"layers/{i}/moe", f"model.layers.{i}.block_sparse_moe"
        out.append(Rule(f"{ours}_norm/scale", f"model.layers.{i}.post_attention_layernorm.weight"))
        out.append(Rule(f"{ours}/router", f"{theirs}.gate.weight", "e d -> d e"))
        for name, number in (("gate", 1), ("down", 2), ("up", 3)):
            each = [f"{theirs}.experts.{e}.w{number}.weight" for e in range(layer.sublayers[1].num_experts)]
            out.append(Rule(f"{ours}/{name}", each, "e o i -> e i o"))
    return out
