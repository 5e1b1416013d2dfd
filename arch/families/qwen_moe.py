"""Qwen-MoE: a decoder of many small experts; in the second generation beside one that every token has, behind a gate.

    x <- x + attention(norm(x));   x <- x + sum_{i chosen} p_i swiglu_i(norm(x))
                                     (+ sigmoid(u . norm(x)) shared(norm(x)))

Qwen1.5-MoE and Yang et al., Qwen2 Technical Report, 2024, arXiv 2407.10671, sec. 2.2.2: the weights are probabilities,
not divided by their sum, and queries, keys and values have shifts. Yang et al., Qwen3 Technical Report, 2025, arXiv
2505.09388, sec. 2: no shared expert, weights that sum to one, a norm of each head's query and key and no shifts, and
a balance loss of the whole batch. The presets have the loss of the released configs, what is read none.
"""

from typing import Literal

from arch import config as configs
from arch.families._hyperparameters import channels_a_head, confirm, sublayers
from arch.families._mixtures import moe_rules
from arch.families.llama import (
    PREFIX,
    around,
    attention_rules,
    common,
    duplicates,
    ignored,
    read_common,
    write_common,
)
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
    num_experts: int,
    top_k: int,
    shared_dim: int = 0,
    renormalize: bool = False,
    bias: Literal["none", "qkv"] = "none",
    qk_norm: bool = False,
    num_kv_heads: int = 0,
    head_dim: int = 0,
    position: Position = rope.Config(theta=1e6),
    epsilon: float = 1e-6,
    activation: Activation = "silu",
    attention_dropout: float = 0.0,
    balance_weight: float = 0.0,
    balance_over: Literal["row", "batch"] = "row",
    tie_embeddings: bool = False,
) -> decoder.Config:
    """The model; `hidden_dim` is an expert's, `num_kv_heads` 0 num_heads, `head_dim` 0 embed_dim / num_heads."""
    rms = norm.Config(kind="rms", epsilon=epsilon)
    mixer = attention.Config(
        num_heads=num_heads,
        head_dim=head_dim or channels_a_head(embed_dim, num_heads),
        num_kv_heads=num_kv_heads or num_heads,
        position=position,
        bias=bias,
        qk_norm=qk_norm,
        dropout=attention_dropout,
    )
    experts = moe.Config(
        num_experts=num_experts,
        top_k=top_k,
        hidden_dim=hidden_dim,
        shared_dim=shared_dim,
        shared_gate=shared_dim > 0,
        activation=activation,
        renormalize=renormalize,
        balance_weight=balance_weight,
        balance_over=balance_over,
        z_weight=0.0,
    )
    return decoder.Config(
        vocab_size=vocab_size,
        embed_dim=embed_dim,
        layers=stack.Config(pattern=(block.Config(sublayers=(mixer, experts), norm=rms),), repeats=num_layers),
        norm=rms,
        tie_embeddings=tie_embeddings,
    )


def _second(embed_dim, num_layers, num_heads, num_kv_heads, hidden_dim, shared_dim, num_experts, top_k):
    sizes = dict(embed_dim=embed_dim, num_layers=num_layers, num_heads=num_heads, num_kv_heads=num_kv_heads)
    experts = dict(hidden_dim=hidden_dim, shared_dim=shared_dim, num_experts=num_experts, top_k=top_k)
    return compose(vocab_size=151936, **sizes, **experts, bias="qkv", balance_weight=0.001)


def _third(embed_dim, num_layers, num_heads, hidden_dim):
    sizes = dict(embed_dim=embed_dim, num_layers=num_layers, num_heads=num_heads, num_kv_heads=4, head_dim=128)
    experts = dict(hidden_dim=hidden_dim, num_experts=128, top_k=8, renormalize=True)
    balance = dict(balance_weight=0.001, balance_over="batch")
    return compose(vocab_size=151936, **sizes, **experts, **balance, qk_norm=True)


PRESETS = {
    # Its model card; Qwen2, table 1; Qwen3, table 2, with the widths of the released configs.
    "qwen1_5_moe_a2_7b": _second(2048, 24, 16, 16, 1408, 5632, 60, 4),
    "qwen2_57b_a14b": _second(3584, 28, 28, 4, 2560, 20480, 64, 8),
    "qwen3_30b_a3b": _third(2048, 48, 32, 768),
    "qwen3_235b_a22b": _third(4096, 94, 64, 1536),
}

MODEL_TYPES = ("qwen2_moe", "qwen3_moe")


def read(attributes: Attributes) -> decoder.Config:
    """Our config from theirs, without any loss of the router's. Raises ValueError on what it cannot express."""
    attributes.expect("decoder_sparse_step", 1)
    attributes.expect("mlp_only_layers", [], None)
    attributes.expect("use_sliding_window", False)
    attributes.ignore("sliding_window", "max_window_layers")  # of the windows that are not used
    attributes.ignore("output_router_logits", "router_aux_loss_coef")
    second = attributes.get("model_type") == "qwen2_moe"
    found = read_common(attributes, num_kv_heads=16 if second else 4, theta=10000.0)
    found["hidden_dim"] = attributes.get("moe_intermediate_size")  # the other one is of layers without experts
    found["num_experts"] = attributes.get("num_experts", attributes.get("num_local_experts", 0))
    if second:
        kinds = attributes.get("layer_types", [])
        if set(kinds) - {"full_attention"}:
            raise ValueError(f"layer_types={kinds!r} must be full_attention for every layer")
        found["bias"] = "qkv" if attributes.get("qkv_bias", True) else "none"
        found["shared_dim"] = attributes.get("shared_expert_intermediate_size")
    else:
        attributes.expect("attention_bias", False)
        if found["epsilon"] != 1e-6:
            raise ValueError(f"rms_norm_eps={found['epsilon']} must be 1e-6, that of the heads' norms")
        found["qk_norm"] = True
    config = compose(
        **found,
        top_k=attributes.get("num_experts_per_tok"),
        renormalize=attributes.get("norm_topk_prob", False),
    )
    attributes.finish()
    return config


def write(config: configs.Config) -> dict:
    """Their config.json from ours. Raises ValueError on what it cannot express."""
    mixer, ffn = sublayers(config, decoder.Config, attention.Config, moe.Config)
    found = common(config)
    experts = {"num_experts": ffn.num_experts, "top_k": ffn.top_k, "renormalize": ffn.renormalize}
    second = not mixer.qk_norm
    kind = {"bias": mixer.bias, "shared_dim": ffn.shared_dim} if second else {"qk_norm": True}
    confirm(config, compose(**found, **experts, **kind))
    if second and not ffn.shared_dim:
        raise ValueError("shared_dim=0 must be positive in this family with qk_norm=False")
    if not second and found["epsilon"] != 1e-6:
        raise ValueError(f"epsilon={found['epsilon']} must be 1e-6 in this family with qk_norm=True, as in its heads")
    version = "2" if second else "3"
    head = {"architectures": [f"Qwen{version}MoeForCausalLM"], "model_type": f"qwen{version}_moe"}
    out = head | write_common(found) | {"moe_intermediate_size": ffn.hidden_dim, "norm_topk_prob": ffn.renormalize}
    out |= {"num_experts": ffn.num_experts, "num_experts_per_tok": ffn.top_k}
    if not second:
        return out
    return out | {"qkv_bias": mixer.bias == "qkv", "shared_expert_intermediate_size": ffn.shared_dim}


def rules(config: decoder.Config) -> list[Rule]:
    """One rule a tensor, and one for each of the experts' three matrices, which have a tensor an expert."""
    out = around(config)
    for i, layer in enumerate(config.layers.blocks):
        mixer, ffn = layer.sublayers
        out += attention_rules(i, mixer) + moe_rules(i, ffn, shared="shared_expert")
        if mixer.qk_norm:
            ours, theirs = f"layers/{i}/attention", f"model.layers.{i}.self_attn"
            out += [Rule(f"{ours}/{name}_norm/scale", f"{theirs}.{name[0]}_norm.weight") for name in ("query", "key")]
        if ffn.shared_gate:
            theirs = f"model.layers.{i}.mlp.shared_expert_gate.weight"
            out.append(Rule(f"layers/{i}/moe/shared_gate", theirs, "1 d -> d"))
    return out
