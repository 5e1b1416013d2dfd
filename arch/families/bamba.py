"""Bamba: layers of Mamba-2 and, here and there, of attention whose heads are turned in half of their channels.

    x <- x + mixer_i(norm(x)),   mixer_i = attention where i is 9, 18 or 27 (of 32), else mamba2
    x <- x + W_down (silu(W_gate norm(x)) * W_up norm(x))

Chu et al. (IBM, Princeton, CMU, UIUC), Bamba: Inference-Efficient Hybrid Mamba2 Model, 2024,
https://huggingface.co/blog/bamba. The layers themselves are `arch/mixers/mamba2.py` and `arch/mixers/attention.py`.
"""

from arch import config as configs
from arch.families._hyperparameters import channels_a_head, confirm
from arch.families._rules import linear
from arch.families._vocabulary import read_rope, write_rope
from arch.families.llama import PREFIX, attention_rules, duplicates
from arch.families.mamba2_lm import UNLIMITED, mixer_rules
from arch.ffns import gated_mlp
from arch.layers import block, norm, stack
from arch.layers.contract import Position
from arch.mixers import attention, mamba2
from arch.models import decoder
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
    attention_layers: tuple[int, ...] = (9, 18, 27),
    num_kv_heads: int = 8,
    position: Position = rope.Config(fraction=0.5),
    state_heads: int = 128,
    state_head_dim: int = 64,
    state_dim: int = 128,
    num_groups: int = 1,
    conv_width: int = 4,
    epsilon: float = 1e-5,
    attention_bias: bool = False,
    mlp_bias: bool = False,
    attention_dropout: float = 0.0,
    tie_embeddings: bool = False,
) -> decoder.Config:
    """The model; `num_kv_heads` 0 is num_heads.

    Raises:
      ValueError: the heads do not divide embed_dim, or attention_layers are not increasing numbers of layers.
    """
    if not 0 < num_layers <= stack.MAX_REPEATS:
        raise ValueError(f"num_layers={num_layers} must be from 1 to {stack.MAX_REPEATS}")
    rms = norm.Config(kind="rms", epsilon=epsilon)
    heads = attention.Config(
        num_heads=num_heads,
        head_dim=channels_a_head(embed_dim, num_heads),
        num_kv_heads=num_kv_heads or num_heads,
        position=position,
        bias="all" if attention_bias else "none",
        dropout=attention_dropout,
    )
    state = mamba2.Config(
        num_heads=state_heads,
        head_dim=state_head_dim,
        state_dim=state_dim,
        num_groups=num_groups,
        conv_width=conv_width,
        epsilon=epsilon,
    )
    ffn = gated_mlp.Config(hidden_dim=hidden_dim, bias=mlp_bias)
    attending, recurrent = (block.Config(sublayers=(mixer, ffn), norm=rms) for mixer in (heads, state))
    return decoder.Config(
        vocab_size=vocab_size,
        embed_dim=embed_dim,
        layers=_stacked(attending, recurrent, attention_layers, num_layers),
        norm=rms,
        tie_embeddings=tie_embeddings,
    )


def _stacked(
    attending: block.Config, recurrent: block.Config, attention_layers: tuple[int, ...], num_layers: int
) -> stack.Config:
    """The layers; where attention comes at equal steps, a period ends in it."""
    if list(attention_layers) != sorted({i for i in attention_layers if 0 <= i < num_layers}):
        raise ValueError(f"attention_layers={attention_layers} must increase from 0 on, below num_layers={num_layers}")
    if not attention_layers:
        return stack.Config(pattern=(recurrent,), repeats=num_layers)
    layers = [recurrent] * num_layers
    for i in attention_layers:
        layers[i] = attending
    steps = {after - before for before, after in zip(attention_layers, attention_layers[1:])}
    step = steps.pop() if len(steps) == 1 else num_layers
    start = max(attention_layers[0] + 1 - step, 0)
    repeats = min(len(attention_layers), (num_layers - start) // step)
    end = start + repeats * step
    prefix, pattern, suffix = layers[:start], layers[start : start + step], layers[end:]
    return stack.Config(prefix=tuple(prefix), pattern=tuple(pattern), repeats=repeats, suffix=tuple(suffix))


PRESETS = {
    # The release's section on the model's architecture.
    "bamba_9b": compose(vocab_size=128256, embed_dim=4096, num_layers=32, num_heads=32, hidden_dim=14336),
}

MODEL_TYPES = ("bamba",)

NAMES = {
    "vocab_size": ("vocab_size",),
    "embed_dim": ("hidden_size",),
    "num_layers": ("num_hidden_layers",),
    "num_heads": ("num_attention_heads",),
    "hidden_dim": ("intermediate_size",),
    "state_heads": ("mamba_n_heads", 128),
    "state_dim": ("mamba_d_state", 256),
    "num_groups": ("mamba_n_groups", 1),
    "conv_width": ("mamba_d_conv", 4),
    "epsilon": ("rms_norm_eps", 1e-5),
    "attention_bias": ("attention_bias", False),
    "mlp_bias": ("mlp_bias", False),
    "attention_dropout": ("attention_dropout", 0.0),
    "tie_embeddings": ("tie_word_embeddings", False),
}
"""Their attributes, with defaults, by our hyperparameters."""


def read(attributes: Attributes) -> decoder.Config:
    """Our config from theirs. Raises ValueError on what it cannot express."""
    for name, value in {"hidden_act": "silu", "mamba_conv_bias": True, "mamba_proj_bias": False}.items():
        attributes.expect(name, value)
    attributes.expect("time_step_limit", *UNLIMITED)
    attributes.ignore("mamba_chunk_size", "use_mamba_kernels", "num_logits_to_keep", "z_loss_coefficient")
    found = {ours: attributes.get(*theirs) for ours, theirs in NAMES.items()}
    found["num_kv_heads"] = attributes.get("num_key_value_heads", 8, null=0)
    found["position"] = read_rope(attributes, fraction="partial_rotary_factor", share=0.5)
    attributes.expect("head_dim", channels_a_head(found["embed_dim"], found["num_heads"]))
    width, count = attributes.get("mamba_expand", 2) * found["embed_dim"], found["state_heads"]
    size = attributes.get("mamba_d_head", "auto")
    found["state_head_dim"] = width // count if size == "auto" else size
    if count * found["state_head_dim"] != width:
        whole = f"mamba_expand times hidden_size, {width}"
        raise ValueError(f"mamba_n_heads={count} times mamba_d_head={size} must be {whole}")
    _hold_half(found["position"])
    config = compose(**found, attention_layers=tuple(sorted(set(attributes.get("attn_layer_indices", [])))))
    attributes.finish()
    return config


def _hold_half(position: Position) -> None:
    """Raises ValueError unless half of a head's channels turn: transformers takes no other share."""
    if getattr(position, "fraction", None) != 0.5:
        raise ValueError(f"position={position} must turn 0.5 of the channels in this family")


def write(config: configs.Config) -> dict:
    """Their config.json from ours. Raises ValueError on what it cannot express."""
    if not isinstance(config, decoder.Config):
        raise ValueError(f"model={type(config).__module__.rsplit('.', 1)[-1]!r} must be 'decoder' in this family")
    blocks = config.layers.blocks
    kinds = {part.label: part for layer in reversed(blocks) for part in layer.sublayers}
    if missing := [name for name in ("mamba2", "attention", "gated_mlp") if name not in kinds]:
        raise ValueError(f"layers must hold {missing[0]} in this family")
    state, heads, ffn = (kinds[name] for name in ("mamba2", "attention", "gated_mlp"))
    found = {
        "vocab_size": config.vocab_size,
        "embed_dim": config.embed_dim,
        "num_layers": len(blocks),
        "num_heads": heads.num_heads,
        "hidden_dim": ffn.hidden_dim,
        "state_heads": state.num_heads,
        "state_dim": state.state_dim,
        "num_groups": state.num_groups,
        "conv_width": state.conv_width,
        "epsilon": config.norm.epsilon,
        "attention_bias": heads.bias == "all",
        "mlp_bias": ffn.bias,
        "attention_dropout": heads.dropout,
        "tie_embeddings": config.tie_embeddings,
    }
    places = [i for i, layer in enumerate(blocks) if layer.labels[0] == "attention"]
    others = {"num_kv_heads": heads.kv_heads, "position": heads.position, "state_head_dim": state.head_dim}
    confirm(config, compose(**found, **others, attention_layers=tuple(places)))
    _hold_half(heads.position)
    expand, rest = divmod(state.inner_dim, config.embed_dim)
    if rest:
        rule = f"must be a multiple of embed_dim={config.embed_dim}"
        raise ValueError(f"num_heads={state.num_heads} times head_dim={state.head_dim} of mamba2 {rule}")
    out = {"architectures": ["BambaForCausalLM"], "model_type": "bamba", "attn_layer_indices": places}
    out |= {NAMES[ours][0]: value for ours, value in found.items()} | {"num_key_value_heads": heads.kv_heads}
    out |= {"mamba_d_head": state.head_dim, "mamba_expand": expand}
    return out | write_rope(heads.position, fraction="partial_rotary_factor")


def rules(config: decoder.Config) -> list[Rule]:
    """One rule a tensor; three of each Mamba-2's hold several of ours, one below the other."""
    out = [Rule("embedding/table", "model.embed_tokens.weight"), Rule("norm/scale", "model.final_layernorm.weight")]
    if not config.tie_embeddings:
        out.append(Rule("embedding/output", "lm_head.weight"))
    for i, layer in enumerate(config.layers.blocks):
        ours, theirs, (mixer, ffn) = f"layers/{i}", f"model.layers.{i}", layer.sublayers
        if mixer.label == "attention":
            out += attention_rules(i, mixer)
        else:
            out.append(Rule(f"{ours}/mamba2_norm/scale", f"{theirs}.input_layernorm.weight"))
            out += mixer_rules(mixer, f"{ours}/mamba2", f"{theirs}.mamba")
        out.append(Rule(f"{ours}/gated_mlp_norm/scale", f"{theirs}.pre_ff_layernorm.weight"))
        for name in ("gate", "up", "down"):
            out += linear(f"{ours}/gated_mlp/{name}", f"{theirs}.feed_forward.{name}_proj", bias=ffn.bias)
    return out


def ignored(config: decoder.Config) -> tuple[str, ...]:
    """Nothing."""
    return ()
