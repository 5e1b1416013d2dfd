"""Zamba2: layers of Mamba-2, a few of which read beside the stream what a transformer's layer makes of it.

    x <- x + mamba2(norm(x))
    x <- x + mamba2(norm(x + shared_transformer(x)))    in every sixth layer or so

One or two such layers are shared by all these places in turn, and see the embedded tokens, too. Glorioso et al., The
Zamba2 Suite: Technical Report, 2024, arXiv 2411.15242, sec. II. The parts are `arch/mixers/mamba2.py` and
`arch/mixers/shared_transformer.py`.
"""

from arch import config as configs
from arch.families._folding import folded
from arch.families._hyperparameters import confirm
from arch.families._vocabulary import read_activation, read_rope, write_activation, write_rope
from arch.families._zamba2_names import duplicates, rules
from arch.families.llama import PREFIX
from arch.layers import block, norm, stack
from arch.layers.contract import Position
from arch.mixers import mamba2, shared_transformer
from arch.models import decoder
from arch.ops.activation import Activation
from arch.positions import none, rope
from arch.published import Attributes

__all__ = ["MODEL_TYPES", "PREFIX", "PRESETS", "compose", "duplicates", "ignored", "read", "rules", "write"]


def compose(
    *,
    embed_dim: int,
    num_layers: int,
    hybrid_layers: tuple[int, ...],
    num_heads: int = 32,
    hidden_dim: int = 0,
    num_shared: int = 1,
    vocab_size: int = 32000,
    attention_rank: int = 0,
    ffn_rank: int = 128,
    position: Position = none.Config(),
    activation: Activation = "gelu",
    state_heads: int = 0,
    inner_dim: int = 0,
    state_dim: int = 64,
    num_groups: int = 1,
    conv_width: int = 4,
    least_step: float = 0.001,
    epsilon: float = 1e-5,
    tie_embeddings: bool = True,
) -> decoder.Config:
    """The model; `hidden_dim` 0 is 4 embed_dim, `inner_dim` 0 2 embed_dim, `state_heads` 0 inner_dim / 64.

    Args:
      hybrid_layers: numbers of the layers that read the shared transformers.
      num_shared: how many of these there are, in turn.
      others: of the parts.

    Raises:
      ValueError: heads that do not share their channels evenly, or hybrid_layers that are not increasing numbers.
    """
    if not 0 < num_layers <= stack.MAX_REPEATS:
        raise ValueError(f"num_layers={num_layers} must be from 1 to {stack.MAX_REPEATS}")
    if list(hybrid_layers) != sorted({i for i in hybrid_layers if 0 <= i < num_layers}) or not hybrid_layers:
        rule = f"must be some numbers that increase from 0 on, below num_layers={num_layers}"
        raise ValueError(f"hybrid_layers={hybrid_layers} {rule}")
    inner_dim = inner_dim or 2 * embed_dim
    state_heads = state_heads or inner_dim // 64
    for name, width, heads in (("embed_dim", 2 * embed_dim, num_heads), ("inner_dim", inner_dim, state_heads)):
        if width % heads:
            raise ValueError(f"{name}: {width} channels must be a multiple of {heads} heads")
    rms = norm.Config(kind="rms", epsilon=epsilon)
    state = mamba2.Config(
        num_heads=state_heads,
        head_dim=inner_dim // state_heads,
        state_dim=state_dim,
        num_groups=num_groups,
        conv_width=conv_width,
        least_step=least_step,
    )
    layer = shared_transformer.Layer(
        num_heads=num_heads,
        head_dim=2 * embed_dim // num_heads,
        hidden_dim=hidden_dim or 4 * embed_dim,
        activation=activation,
        position=position,
        epsilon=epsilon,
    )
    layers = [block.Config(sublayers=(state,), norm=rms)] * num_layers
    for number, i in enumerate(hybrid_layers):
        group = f"shared_{number % num_shared}"
        place = shared_transformer.Config(layer=layer, group=group, attention_rank=attention_rank, ffn_rank=ffn_rank)
        layers[i] = block.Config(sublayers=(place, state), norm=rms, placement="nested")
    return decoder.Config(
        vocab_size=vocab_size,
        embed_dim=embed_dim,
        layers=folded(tuple(layers)),
        norm=rms,
        tie_embeddings=tie_embeddings,
    )


def _every_sixth(first: int, last: int) -> tuple[int, ...]:
    return tuple(range(first, last + 1, 6))


PRESETS = {
    # The configs of Zyphra/Zamba2-1.2B, -2.7B and -7B.
    "zamba2_1_2b": compose(
        embed_dim=2048,
        num_layers=38,
        hybrid_layers=_every_sixth(5, 35),
        state_dim=128,
        attention_rank=128,
        position=rope.Config(),
    ),
    "zamba2_2_7b": compose(embed_dim=2560, num_layers=54, hybrid_layers=(*_every_sixth(6, 42), 47, 51), num_shared=2),
    "zamba2_7b": compose(
        embed_dim=3584,
        num_layers=81,
        hybrid_layers=(6, *_every_sixth(11, 77)),
        num_shared=2,
        num_groups=2,
        position=rope.Config(),
    ),
}

MODEL_TYPES = ("zamba2",)

NAMES = {
    "embed_dim": ("hidden_size", 2560),
    "num_layers": ("num_hidden_layers", 54),
    "num_heads": ("num_attention_heads", 32),
    "hidden_dim": ("intermediate_size", 0),
    "num_shared": ("num_mem_blocks", 1),
    "vocab_size": ("vocab_size", 32000),
    "ffn_rank": ("adapter_rank", 128),
    "state_heads": ("n_mamba_heads", 8),
    "state_dim": ("mamba_d_state", 64),
    "num_groups": ("mamba_ngroups", 1),
    "conv_width": ("mamba_d_conv", 4),
    "least_step": ("time_step_min", 0.001),
    "epsilon": ("rms_norm_eps", 1e-5),
    "tie_embeddings": ("tie_word_embeddings", True),
}
"""Their attributes, with defaults, by our hyperparameters."""

DERIVED = ("attention_hidden_size", "attention_head_dim", "mamba_headdim", "kv_channels", "num_query_groups")
HOW = ("chunk_size", "use_mem_eff_path", "use_mamba_kernels", "num_logits_to_keep", "use_conv_bias")
"""What follows from the others, and how it is computed. (The convolution has a shift, whatever the last one says.)"""


def read(attributes: Attributes) -> decoder.Config:
    """Our config from theirs. Raises ValueError on what it cannot express."""
    for name, value in {"add_bias_linear": False, "use_long_context": False, "attention_dropout": 0.0}.items():
        attributes.expect(name, value)
    attributes.ignore(*DERIVED, *HOW, "time_step_max", "time_step_floor", "hybrid_layer_ids")
    found = {ours: attributes.get(*theirs) for ours, theirs in NAMES.items()}
    attributes.expect("num_key_value_heads", None, found["num_heads"])
    found["inner_dim"] = int(attributes.get("mamba_expand", 2) * found["embed_dim"])
    found["attention_rank"] = found["ffn_rank"] if attributes.get("use_shared_attention_adapter", False) else 0
    position = read_rope(attributes)
    found["position"] = position if attributes.get("use_mem_rope", False) else none.Config()
    kinds = attributes.get("layers_block_type")
    if set(kinds) - {"mamba", "linear_attention", "hybrid"} or len(kinds) != found["num_layers"]:
        rule = f"must be num_hidden_layers={found['num_layers']} of 'mamba', 'linear_attention' and 'hybrid'"
        raise ValueError(f"layers_block_type={kinds} {rule}")
    found["hybrid_layers"] = tuple(i for i, kind in enumerate(kinds) if kind == "hybrid")
    config = compose(**found, activation=read_activation(attributes, "hidden_act", "gelu"))
    attributes.finish()
    return config


def write(config: configs.Config) -> dict:
    """Their config.json from ours. Raises ValueError on what it cannot express."""
    if not isinstance(config, decoder.Config):
        raise ValueError(f"model={type(config).__module__.rsplit('.', 1)[-1]!r} must be 'decoder' in this family")
    blocks = config.layers.blocks
    kinds = {part.label: part for layer in reversed(blocks) for part in layer.sublayers}
    if missing := [name for name in ("mamba2", "shared_transformer") if name not in kinds]:
        raise ValueError(f"layers must hold {missing[0]} in this family")
    state, place = kinds["mamba2"], kinds["shared_transformer"]
    hybrid = tuple(i for i, layer in enumerate(blocks) if layer.labels[0] == "shared_transformer")
    found = {
        "embed_dim": config.embed_dim,
        "num_layers": len(blocks),
        "num_heads": place.layer.num_heads,
        "hidden_dim": place.layer.hidden_dim,
        "num_shared": len({name for i in hybrid for name in blocks[i].sublayers[0].groups()}) or 1,
        "vocab_size": config.vocab_size,
        "ffn_rank": place.ffn_rank,
        "state_heads": state.num_heads,
        "state_dim": state.state_dim,
        "num_groups": state.num_groups,
        "conv_width": state.conv_width,
        "least_step": state.least_step,
        "epsilon": config.norm.epsilon,
        "tie_embeddings": config.tie_embeddings,
    }
    position, activation = place.layer.position, place.layer.activation
    others = {"attention_rank": place.attention_rank, "inner_dim": state.inner_dim, "hybrid_layers": hybrid}
    confirm(config, compose(**found, **others, position=position, activation=activation))
    if place.attention_rank not in (0, place.ffn_rank) or not place.ffn_rank:
        rule = f"must be 0 or ffn_rank={place.ffn_rank}, and that above 0, in this family"
        raise ValueError(f"attention_rank={place.attention_rank} {rule}")
    expand, rest = divmod(state.inner_dim, config.embed_dim)
    if rest:
        raise ValueError(f"inner_dim={state.inner_dim} of mamba2 must be a multiple of embed_dim={config.embed_dim}")
    out = {"architectures": ["Zamba2ForCausalLM"], "model_type": "zamba2", "mamba_expand": expand}
    out |= {NAMES[ours][0]: value for ours, value in found.items()}
    out |= {"layers_block_type": ["hybrid" if i in hybrid else "mamba" for i in range(len(blocks))]}
    out |= {"use_shared_attention_adapter": place.attention_rank > 0, "hidden_act": write_activation(activation)}
    turns = not isinstance(position, none.Config)
    return out | {"use_mem_rope": turns} | (write_rope(position) if turns else {})


def ignored(config: decoder.Config) -> tuple[str, ...]:
    """Nothing."""
    return ()
