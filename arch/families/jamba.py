"""Jamba: layers of Mamba and, one in eight, of attention without positions; every other ffn is a mixture of experts.

    x <- x + mixer_i(norm(x)),   mixer_i = attention where i = 4 mod 8, else mamba
    x <- x + ffn_i(norm(x)),     ffn_i = sum_{e in top 2} p_e swiglu_e where i is odd, else swiglu

Lieber et al., Jamba: A Hybrid Transformer-Mamba Language Model, 2024, arXiv 2403.19887, sec. 2 and 3.1; the norms
inside Mamba are those of its sec. 6.4. Jamba-1.5: Jamba Team, 2024, arXiv 2408.12570, sec. 2. The experts' weights are
probabilities, not divided by their sum. The presets have the balance loss of the released configs, what is read none.
"""

import math

from arch import config as configs
from arch.families._hyperparameters import channels_a_head, confirm
from arch.families._mixtures import dense_rules, moe_rules
from arch.families._vocabulary import read_activation, write_activation
from arch.families.llama import PREFIX, attention_rules, duplicates
from arch.families.mamba_lm import mixer_rules
from arch.ffns import gated_mlp, moe
from arch.layers import block, norm, stack
from arch.mixers import attention, mamba
from arch.models import decoder
from arch.ops.activation import Activation
from arch.positions import none
from arch.published import Attributes, Rule

__all__ = ["MODEL_TYPES", "PREFIX", "PRESETS", "compose", "duplicates", "ignored", "read", "rules", "write"]


def compose(
    *,
    vocab_size: int,
    embed_dim: int,
    num_layers: int,
    num_heads: int,
    hidden_dim: int,
    num_experts: int = 16,
    top_k: int = 2,
    num_kv_heads: int = 8,
    attention_period: int = 8,
    attention_offset: int = 4,
    expert_period: int = 2,
    expert_offset: int = 1,
    inner_dim: int = 0,
    state_dim: int = 16,
    conv_width: int = 4,
    dt_rank: int = 0,
    epsilon: float = 1e-6,
    activation: Activation = "silu",
    attention_dropout: float = 0.0,
    balance_weight: float = 0.0,
    tie_embeddings: bool = False,
) -> decoder.Config:
    """The model; `inner_dim` 0 is 2 embed_dim, `dt_rank` 0 embed_dim / 16, rounded up."""
    if not 0 < num_layers <= stack.MAX_REPEATS:
        raise ValueError(f"num_layers={num_layers} must be from 1 to {stack.MAX_REPEATS}")
    for name, period, offset in (
        ("attention", attention_period, attention_offset),
        ("expert", expert_period, expert_offset),
    ):
        if not 0 <= offset < period:
            raise ValueError(f"{name}_offset={offset} must be at least 0 and below {name}_period={period}")
    rms = norm.Config(kind="rms", epsilon=epsilon)
    heads = attention.Config(
        num_heads=num_heads,
        head_dim=channels_a_head(embed_dim, num_heads),
        num_kv_heads=num_kv_heads,
        position=none.Config(),
        dropout=attention_dropout,
    )
    inner = dict(inner_dim=inner_dim or 2 * embed_dim, inner_norms="scaled", epsilon=epsilon)
    state = mamba.Config(**inner, state_dim=state_dim, conv_width=conv_width, dt_rank=dt_rank)
    dense = gated_mlp.Config(hidden_dim=hidden_dim, activation=activation)
    experts = moe.Config(
        num_experts=num_experts,
        top_k=top_k,
        hidden_dim=hidden_dim,
        activation=activation,
        renormalize=False,
        balance_weight=balance_weight,
        z_weight=0.0,
    )

    def layer(i: int) -> block.Config:
        mixer = heads if i % attention_period == attention_offset else state
        ffn = experts if i % expert_period == expert_offset else dense
        return block.Config(sublayers=(mixer, ffn), norm=rms)

    period = min(math.lcm(attention_period, expert_period), num_layers)
    pattern, repeats = tuple(map(layer, range(period))), num_layers // period
    return decoder.Config(
        vocab_size=vocab_size,
        embed_dim=embed_dim,
        layers=stack.Config(pattern=pattern, repeats=repeats, suffix=pattern[: num_layers % period]),
        norm=rms,
        tie_embeddings=tie_embeddings,
    )


_SIZES = dict(vocab_size=65536, balance_weight=0.001)

PRESETS = {
    # Jamba, sec. 3.1 and its released config; Jamba-1.5, table 1 (Mini is the first Jamba).
    "jamba_v0_1": compose(**_SIZES, embed_dim=4096, num_layers=32, num_heads=32, hidden_dim=14336),
    "jamba_1_5_large": compose(**_SIZES, embed_dim=8192, num_layers=72, num_heads=64, hidden_dim=24576),
}

MODEL_TYPES = ("jamba",)

NAMES = {
    "vocab_size": ("vocab_size",),
    "embed_dim": ("hidden_size",),
    "num_layers": ("num_hidden_layers",),
    "num_heads": ("num_attention_heads",),
    "num_kv_heads": ("num_key_value_heads", 8),
    "hidden_dim": ("intermediate_size",),
    "num_experts": ("num_experts", 16),
    "top_k": ("num_experts_per_tok", 2),
    "attention_period": ("attn_layer_period", 8),
    "attention_offset": ("attn_layer_offset", 4),
    "expert_period": ("expert_layer_period", 2),
    "expert_offset": ("expert_layer_offset", 1),
    "state_dim": ("mamba_d_state", 16),
    "conv_width": ("mamba_d_conv", 4),
    "epsilon": ("rms_norm_eps", 1e-6),
    "attention_dropout": ("attention_dropout", 0.0),
    "tie_embeddings": ("tie_word_embeddings", False),
}
"""Their attributes, with defaults, by our hyperparameters."""


def read(attributes: Attributes) -> decoder.Config:
    """Our config from theirs, without any loss of the router's. Raises ValueError on what it cannot express."""
    expected = {"mamba_conv_bias": True, "mamba_proj_bias": False, "mamba_inner_layernorms": True}
    for name, value in expected.items():
        attributes.expect(name, value)
    attributes.ignore("use_mamba_kernels", "use_mambapy", "use_associative_scan")  # how, not what
    attributes.ignore("max_position_embeddings", "output_router_logits", "router_aux_loss_coef", "auto_map")
    attributes.ignore("calc_logits_for_entire_prompt", "num_logits_to_keep")
    found = {ours: attributes.get(*theirs) for ours, theirs in NAMES.items()}
    if found["num_experts"] < 2:
        raise ValueError(f"num_experts={found['num_experts']} must be at least 2: one is no mixture in this family")
    rank = attributes.get("mamba_dt_rank", "auto")
    found["dt_rank"] = 0 if rank in ("auto", -(-found["embed_dim"] // 16)) else rank
    found["inner_dim"] = attributes.get("mamba_expand", 2) * found["embed_dim"]
    config = compose(**found, activation=read_activation(attributes, "hidden_act", "silu"))
    attributes.finish()
    return config


def write(config: configs.Config) -> dict:
    """Their config.json from ours. Raises ValueError on what it cannot express."""
    if not isinstance(config, decoder.Config):
        raise ValueError(f"model={type(config).__module__.rsplit('.', 1)[-1]!r} must be 'decoder' in this family")
    blocks = config.layers.blocks
    places = {name: [i for i, layer in enumerate(blocks) if name in layer.labels] for name in (*MIXERS, "moe")}
    if missing := [name for name, found in places.items() if not found]:
        raise ValueError(f"layers must hold {missing[0]} in this family")
    kinds = {part.label: part for layer in reversed(blocks) for part in layer.sublayers}
    heads, state, ffn = (kinds[name] for name in (*MIXERS, "moe"))
    found = {
        "vocab_size": config.vocab_size,
        "embed_dim": config.embed_dim,
        "num_layers": len(blocks),
        "num_heads": heads.num_heads,
        "num_kv_heads": heads.kv_heads,
        "hidden_dim": ffn.hidden_dim,
        "num_experts": ffn.num_experts,
        "top_k": ffn.top_k,
        "state_dim": state.state_dim,
        "conv_width": state.conv_width,
        "epsilon": config.norm.epsilon,
        "attention_dropout": heads.dropout,
        "tie_embeddings": config.tie_embeddings,
    }
    for name, where in (("attention", places["attention"]), ("expert", places["moe"])):
        found[f"{name}_period"] = where[1] - where[0] if len(where) > 1 else len(blocks)
        found[f"{name}_offset"] = where[0]
    confirm(config, compose(**found, inner_dim=state.inner_dim, dt_rank=state.dt_rank, activation=ffn.activation))
    expand, rest = divmod(state.inner_dim, config.embed_dim)
    if rest:
        raise ValueError(f"inner_dim={state.inner_dim} must be a multiple of embed_dim={config.embed_dim}")
    out = {"architectures": ["JambaForCausalLM"], "model_type": "jamba", "mamba_expand": expand}
    out |= {NAMES[ours][0]: value for ours, value in found.items()}
    return out | {"mamba_dt_rank": state.rank(config.embed_dim), "hidden_act": write_activation(ffn.activation)}


MIXERS = ("attention", "mamba")


def rules(config: decoder.Config) -> list[Rule]:
    """One rule a tensor, and one for each of the experts' three matrices, which have a tensor an expert."""
    out = [Rule("embedding/table", "model.embed_tokens.weight"), Rule("norm/scale", "model.final_layernorm.weight")]
    if not config.tie_embeddings:
        out.append(Rule("embedding/output", "lm_head.weight"))
    names = {"theirs": "feed_forward", "norm": "pre_ff_layernorm"}
    for i, layer in enumerate(config.layers.blocks):
        mixer, ffn = layer.sublayers
        out += _mamba_rules(i, mixer, config.embed_dim) if mixer.label == "mamba" else attention_rules(i, mixer)
        out += moe_rules(i, ffn, **names, router="router") if ffn.label == "moe" else dense_rules(i, **names)
    return out


def _mamba_rules(i: int, mixer: mamba.Config, embed_dim: int) -> list[Rule]:
    """The rules of layer i's Mamba, with its norms inside and the one before it."""
    ours, theirs = f"layers/{i}/mamba", f"model.layers.{i}"
    norms = [Rule(f"{ours}/{name}_norm/scale", f"{theirs}.mamba.{name.lower()}_layernorm.weight") for name in INNER]
    before = Rule(f"{ours}_norm/scale", f"{theirs}.input_layernorm.weight")
    return [before, *norms, *mixer_rules(mixer, ours, f"{theirs}.mamba", embed_dim)]


INNER = ("dt", "B", "C")


def ignored(config: decoder.Config) -> tuple[str, ...]:
    """Nothing."""
    return ()
