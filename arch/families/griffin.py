"""Griffin, as RecurrentGemma: two layers of RG-LRU, one of attention within a window, and again; GeGLU after each.

    x <- x + mixer_i(norm(x)),   mixer_i = attention where i = 2 mod 3, else rg_lru
    x <- x + W_down (gelu(W_gate norm(x)) * W_up norm(x))

De et al., Griffin: Mixing Gated Linear Recurrences with Local Attention for Efficient Language Models, 2024, arXiv
2402.19427, sec. 2; Botev et al., RecurrentGemma: Moving Past Transformers for Efficient Open Language Models, 2024,
arXiv 2404.07839, sec. 2 and table 1. The embedded tokens are multiplied by sqrt(embed_dim), rounded to bfloat16 as in
the released code. Published norms hold what their scales have above 1, and `intermediate_size` is twice hidden_dim.
"""

import jax.numpy as jnp

from arch import config as configs
from arch.families._hyperparameters import channels_a_head, confirm
from arch.families._rules import linear
from arch.families._vocabulary import read_rope, write_rope
from arch.ffns import gated_mlp
from arch.layers import block, embedding, norm, stack
from arch.layers.contract import Position
from arch.mixers import attention, rg_lru
from arch.models import decoder
from arch.positions import rope
from arch.published import Attributes, Rule

MIXERS = {"recurrent": "rg_lru", "attention": "attention"}
"""Our mixers by their names."""

PERIOD = ("rg_lru", "rg_lru", "attention")
"""The layers' mixers, over and over."""


def compose(
    *,
    embed_dim: int,
    num_layers: int,
    num_heads: int,
    hidden_dim: int = 0,
    inner_dim: int = 0,
    num_kv_heads: int = 1,
    vocab_size: int = 256000,
    window: int = 2048,
    conv_width: int = 4,
    position: Position = rope.Config(fraction=0.5),
    epsilon: float = 1e-6,
    attention_bias: bool = False,
    attention_dropout: float = 0.0,
    logit_soft_cap: float = 30.0,
    tie_embeddings: bool = True,
    period: tuple[str, ...] = PERIOD,
) -> decoder.Config:
    """The model; `hidden_dim` 0 is 3 embed_dim, `inner_dim` 0 embed_dim, `num_kv_heads` 0 num_heads.

    Raises:
      ValueError: the heads do not divide embed_dim, or a period holds another mixer or does not end within the layers.
    """
    if not set(period) <= set(PERIOD) or not 0 < len(period) <= num_layers:
        raise ValueError(f"period={period} must be of 'rg_lru' and 'attention', and of at most {num_layers} layers")
    rms = norm.Config(kind="rms", epsilon=epsilon)
    heads = attention.Config(
        num_heads=num_heads,
        head_dim=channels_a_head(embed_dim, num_heads),
        num_kv_heads=num_kv_heads or num_heads,
        window=window,
        position=position,
        bias="all" if attention_bias else "out",
        dropout=attention_dropout,
    )
    state = rg_lru.Config(inner_dim=inner_dim or embed_dim, num_heads=num_heads, conv_width=conv_width)
    ffn = gated_mlp.Config(hidden_dim=hidden_dim or 3 * embed_dim, activation="gelu_tanh", bias=True)
    mixers = {"rg_lru": state, "attention": heads}
    pattern = tuple(block.Config(sublayers=(mixers[name], ffn), norm=rms) for name in period)
    repeats, rest = divmod(num_layers, len(pattern))
    return decoder.Config(
        vocab_size=vocab_size,
        embed_dim=embed_dim,
        layers=stack.Config(pattern=pattern, repeats=repeats, suffix=pattern[:rest]),
        embedding=embedding.Config(scale=float(jnp.bfloat16(embed_dim**0.5))),
        norm=rms,
        tie_embeddings=tie_embeddings,
        logit_soft_cap=logit_soft_cap,
    )


PRESETS = {
    # RecurrentGemma, table 1.
    "recurrentgemma_2b": compose(num_layers=26, embed_dim=2560, num_heads=10),
    "recurrentgemma_9b": compose(num_layers=38, embed_dim=4096, num_heads=16),
}

MODEL_TYPES = ("recurrent_gemma",)
PREFIX = "model."

NAMES = {
    "embed_dim": ("hidden_size",),
    "num_layers": ("num_hidden_layers",),
    "num_heads": ("num_attention_heads",),
    "inner_dim": ("lru_width", 0),
    "num_kv_heads": ("num_key_value_heads", 0),
    "vocab_size": ("vocab_size",),
    "window": ("attention_window_size", 2048),
    "conv_width": ("conv1d_width", 4),
    "epsilon": ("rms_norm_eps", 1e-6),
    "attention_bias": ("attention_bias", False),
    "attention_dropout": ("attention_dropout", 0.0),
    "logit_soft_cap": ("logits_soft_cap", 30.0),
    "tie_embeddings": ("tie_word_embeddings", True),
}
"""Their attributes, with defaults, by our hyperparameters."""


def read(attributes: Attributes) -> decoder.Config:
    """Our config from theirs. Raises ValueError on what it cannot express."""
    attributes.expect("hidden_activation", "gelu_pytorch_tanh")
    attributes.expect("embeddings_scale_by_sqrt_dim", True)
    attributes.ignore("w_init_variance_scale", "final_w_init_variance_scale")  # how training starts
    found = {ours: attributes.get(*theirs) for ours, theirs in NAMES.items()}
    attributes.expect("head_dim", channels_a_head(found["embed_dim"], found["num_heads"]))
    found["position"] = read_rope(attributes, fraction="partial_rotary_factor", share=0.5)
    types = attributes.get("block_types", ["recurrent", "recurrent", "attention"])
    if unknown := [name for name in types if name not in MIXERS]:
        raise ValueError(f"block_types={types} must be of {' and '.join(MIXERS)}, not {unknown[0]!r}")
    period = tuple(MIXERS[name] for name in types)[: found["num_layers"]]
    _hold(found)
    config = compose(**found, hidden_dim=attributes.get("intermediate_size") // 2, period=period)
    attributes.finish()
    return config


def _hold(found: dict) -> None:
    """Raises ValueError on hyperparameters that compose a model, but none of transformers'."""
    for name in ("window", "logit_soft_cap"):
        if not found[name] > 0:
            raise ValueError(f"{name}={found[name]} must be positive in this family")
    if type(found["position"]) is not rope.Config:
        raise ValueError(f"position={found['position']} must be rope in this family: without scaling")


def write(config: configs.Config) -> dict:
    """Their config.json from ours. Raises ValueError on what it cannot express."""
    if not isinstance(config, decoder.Config):
        raise ValueError(f"model={type(config).__module__.rsplit('.', 1)[-1]!r} must be 'decoder' in this family")
    blocks = config.layers.blocks
    kinds = {part.label: part for layer in reversed(blocks) for part in layer.sublayers}
    if missing := [name for name in ("rg_lru", "attention", "gated_mlp") if name not in kinds]:
        raise ValueError(f"layers must hold {missing[0]} in this family")
    state, heads, ffn = (kinds[name] for name in ("rg_lru", "attention", "gated_mlp"))
    found = {
        "embed_dim": config.embed_dim,
        "num_layers": len(blocks),
        "num_heads": heads.num_heads,
        "inner_dim": state.inner_dim,
        "num_kv_heads": heads.kv_heads,
        "vocab_size": config.vocab_size,
        "window": heads.window,
        "conv_width": state.conv_width,
        "epsilon": config.norm.epsilon,
        "attention_bias": heads.bias == "all",
        "attention_dropout": heads.dropout,
        "logit_soft_cap": config.logit_soft_cap,
        "tie_embeddings": config.tie_embeddings,
    }
    period = _period(tuple(layer.labels[0] for layer in blocks))
    confirm(config, compose(**found, hidden_dim=ffn.hidden_dim, position=heads.position, period=period))
    _hold(found | {"position": heads.position})
    out = {"architectures": ["RecurrentGemmaForCausalLM"], "model_type": "recurrent_gemma"}
    out |= {NAMES[ours][0]: value for ours, value in found.items()} | {"intermediate_size": 2 * ffn.hidden_dim}
    out["block_types"] = [theirs for label in period for theirs, ours in MIXERS.items() if ours == label]
    return out | write_rope(heads.position, fraction="partial_rotary_factor")


def _period(labels: tuple[str, ...]) -> tuple[str, ...]:
    """The shortest beginning that is repeated by all that follows, the last time maybe in part."""
    count = len(labels)
    return next(labels[:n] for n in range(1, count + 1) if labels[n:] == labels[: count - n])


def rules(config: decoder.Config) -> list[Rule]:
    """One rule a tensor."""
    out = [Rule("embedding/table", "model.embed_tokens.weight"), _norm_rule("norm", "model.final_norm")]
    if not config.tie_embeddings:
        out.append(Rule("embedding/output", "lm_head.weight"))
    for i, layer in enumerate(config.layers.blocks):
        ours, theirs, mixer = f"layers/{i}", f"model.layers.{i}", layer.sublayers[0]
        out.append(_norm_rule(f"{ours}/{mixer.label}_norm", f"{theirs}.temporal_pre_norm"))
        out.append(_norm_rule(f"{ours}/gated_mlp_norm", f"{theirs}.channel_pre_norm"))
        mixer_rules = _attention_rules if mixer.label == "attention" else _rg_lru_rules
        out += mixer_rules(mixer, f"{ours}/{mixer.label}", f"{theirs}.temporal_block")
        for name in ("gate", "up", "down"):
            out += linear(f"{ours}/gated_mlp/{name}", f"{theirs}.mlp_block.{name}_proj", bias=True)
    return out


def _norm_rule(ours: str, theirs: str) -> Rule:
    return Rule(f"{ours}/scale", f"{theirs}.weight", shift=1.0)


def _attention_rules(mixer: attention.Config, ours: str, theirs: str) -> list[Rule]:
    """The rules of one attention; its result has a shift in any case."""
    out = [
        Rule(f"{ours}/out", f"{theirs}.o_proj.weight", "d (n h) -> n h d", n=mixer.num_heads),
        Rule(f"{ours}/out_bias", f"{theirs}.o_proj.bias"),
    ]
    for name in ("query", "key", "value"):
        there = f"{theirs}.{name[0]}_proj"
        out.append(Rule(f"{ours}/{name}", f"{there}.weight", "(n h) d -> d n h", h=mixer.head_dim))
        if mixer.bias == "all":
            out.append(Rule(f"{ours}/{name}_bias", f"{there}.bias", "(n h) -> n h", h=mixer.head_dim))
    return out


def _rg_lru_rules(mixer: rg_lru.Config, ours: str, theirs: str) -> list[Rule]:
    """The rules of one recurrent block."""
    out = [
        Rule(f"{ours}/conv", f"{theirs}.conv_1d.weight", "f 1 w -> w f"),
        Rule(f"{ours}/conv_bias", f"{theirs}.conv_1d.bias"),
        Rule(f"{ours}/rate", f"{theirs}.rg_lru.recurrent_param"),
    ]
    for name, there in (("in", "x"), ("gate", "y"), ("out", "out")):
        out += linear(f"{ours}/{name}", f"{theirs}.linear_{there}", bias=True)
    for name, there in (("input", "input"), ("recurrence", "recurrent")):
        out.append(Rule(f"{ours}/{name}_gate", f"{theirs}.rg_lru.{there}_gate_weight"))
        out.append(Rule(f"{ours}/{name}_gate_bias", f"{theirs}.rg_lru.{there}_gate_bias"))
    return out


def ignored(config: decoder.Config) -> tuple[str, ...]:
    """Nothing."""
    return ()


def duplicates(config: decoder.Config) -> dict[str, str]:
    """The table again where it is tied."""
    return {"lm_head.weight": "model.embed_tokens.weight"} if config.tie_embeddings else {}
