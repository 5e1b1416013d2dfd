"""Mamba-2 as a language model: nothing but Mamba-2 layers, each behind an RMSNorm.

    x <- x + mamba2(norm(x))

Dao, Gu, Transformers are SSMs: Generalized Models and Efficient Algorithms Through Structured State Space Duality,
2024, arXiv 2405.21060, sec. 7 and 9.2. The table is tied and its 50277 ids are padded to a multiple of 16. The layer
itself is `arch/mixers/mamba2.py`.
"""

from arch import config as configs
from arch.families._hyperparameters import confirm, sublayers
from arch.layers import block, norm, stack
from arch.mixers import mamba2
from arch.models import decoder
from arch.published import Attributes, Rule


def compose(
    *,
    embed_dim: int,
    num_layers: int,
    vocab_size: int = 50288,
    num_heads: int = 0,
    head_dim: int = 64,
    state_dim: int = 128,
    num_groups: int = 1,
    conv_width: int = 4,
    epsilon: float = 1e-5,
    tie_embeddings: bool = True,
) -> decoder.Config:
    """The model; `num_heads` 0 is 2 embed_dim / head_dim.

    Raises:
      ValueError: head_dim does not divide 2 embed_dim where num_heads is 0.
    """
    if not num_heads and 2 * embed_dim % head_dim:
        raise ValueError(f"embed_dim={embed_dim} twice must be a multiple of head_dim={head_dim}")
    rms = norm.Config(kind="rms", epsilon=epsilon)
    mixer = mamba2.Config(
        num_heads=num_heads or 2 * embed_dim // head_dim,
        head_dim=head_dim,
        state_dim=state_dim,
        num_groups=num_groups,
        conv_width=conv_width,
        epsilon=epsilon,
    )
    return decoder.Config(
        vocab_size=vocab_size,
        embed_dim=embed_dim,
        layers=stack.Config(pattern=(block.Config(sublayers=(mixer,), norm=rms),), repeats=num_layers),
        norm=rms,
        tie_embeddings=tie_embeddings,
    )


PRESETS = {
    # The paper's sec. 9.2 and appendix D.2: the sizes of Mamba.
    "mamba2_130m": compose(num_layers=24, embed_dim=768),
    "mamba2_370m": compose(num_layers=48, embed_dim=1024),
    "mamba2_780m": compose(num_layers=48, embed_dim=1536),
    "mamba2_1_3b": compose(num_layers=48, embed_dim=2048),
    "mamba2_2_7b": compose(num_layers=64, embed_dim=2560),
}

MODEL_TYPES = ("mamba2",)
PREFIX = "backbone."

NAMES = {
    "embed_dim": ("hidden_size", 4096),
    "num_layers": ("num_hidden_layers", 64),
    "vocab_size": ("vocab_size",),
    "num_heads": ("num_heads", 128),
    "head_dim": ("head_dim", 64),
    "state_dim": ("state_size", 128),
    "num_groups": ("n_groups", 8),
    "conv_width": ("conv_kernel", 4),
    "epsilon": ("layer_norm_epsilon", 1e-5),
    "tie_embeddings": ("tie_word_embeddings", False),
}
"""Their attributes, with defaults, by our hyperparameters."""

UNLIMITED = tuple([0.0, infinity] for infinity in (float("inf"), {"__float__": "Infinity"}))
"""A `time_step_limit` that is none, as files have it."""


def read(attributes: Attributes) -> decoder.Config:
    """Our config from theirs. Raises ValueError on what it cannot express."""
    for name, value in {"use_bias": False, "use_conv_bias": True, "hidden_act": "silu", "rms_norm": True}.items():
        attributes.expect(name, value)
    attributes.expect("norm_before_gate", False)
    attributes.expect("time_step_limit", *UNLIMITED)
    attributes.ignore("residual_in_fp32", "chunk_size")  # how, not what
    attributes.ignore("rescale_prenorm_residual", *(f"time_step_{what}" for what in ("floor", "max", "min", "rank")))
    found = {ours: attributes.get(*theirs) for ours, theirs in NAMES.items()}
    expand = attributes.get("expand", 2)
    if found["num_heads"] * found["head_dim"] != expand * found["embed_dim"]:
        raise ValueError(
            f"num_heads={found['num_heads']} times head_dim={found['head_dim']} must be expand={expand} times "
            f"hidden_size={found['embed_dim']}"
        )
    attributes.finish()
    return compose(**found)


def write(config: configs.Config) -> dict:
    """Their config.json from ours. Raises ValueError on what it cannot express."""
    (mixer,) = sublayers(config, decoder.Config, mamba2.Config)
    found = {
        "embed_dim": config.embed_dim,
        "num_layers": len(config.layers.blocks),
        "vocab_size": config.vocab_size,
        "num_heads": mixer.num_heads,
        "head_dim": mixer.head_dim,
        "state_dim": mixer.state_dim,
        "num_groups": mixer.num_groups,
        "conv_width": mixer.conv_width,
        "epsilon": mixer.epsilon,
        "tie_embeddings": config.tie_embeddings,
    }
    confirm(config, compose(**found))
    expand, rest = divmod(mixer.inner_dim, config.embed_dim)
    if rest:
        raise ValueError(
            f"num_heads={mixer.num_heads} times head_dim={mixer.head_dim} must be a multiple of "
            f"embed_dim={config.embed_dim}"
        )
    out = {"architectures": ["Mamba2ForCausalLM"], "model_type": "mamba2", "expand": expand}
    return out | {NAMES[ours][0]: value for ours, value in found.items()}


def rules(config: decoder.Config) -> list[Rule]:
    """One rule a tensor; three of theirs hold several of ours, one below the other."""
    out = [Rule("embedding/table", "backbone.embeddings.weight"), Rule("norm/scale", "backbone.norm_f.weight")]
    if not config.tie_embeddings:
        out.append(Rule("embedding/output", "lm_head.weight"))
    for i, layer in enumerate(config.layers.blocks):
        [mixer], ours, theirs = layer.sublayers, f"layers/{i}/mamba2", f"backbone.layers.{i}"
        out.append(Rule(f"{ours}_norm/scale", f"{theirs}.norm.weight"))
        out += mixer_rules(mixer, ours, f"{theirs}.mixer")
    return out


def mixer_rules(mixer: mamba2.Config, ours: str, theirs: str) -> list[Rule]:
    """The rules of one Mamba-2, whose tensors begin with `theirs`."""
    parts = tuple(mixer.parts.values())
    held = [tuple(f"{ours}/{name}{part}" for part in ("", "_B", "_C")) for name in ("conv", "conv_bias")]
    projected = tuple(f"{ours}/{name}" for name in ("gate", *mixer.parts, "dt"))
    cuts = (mixer.inner_dim, *parts, mixer.num_heads)
    return [
        Rule(projected, f"{theirs}.in_proj.weight", "f d -> d f", cuts=cuts),
        Rule(held[0], f"{theirs}.conv1d.weight", "f 1 w -> w f", cuts=parts),
        Rule(held[1], f"{theirs}.conv1d.bias", cuts=parts),
        *(Rule(f"{ours}/{name}", f"{theirs}.{name}") for name in ("dt_bias", "A_log", "D")),
        Rule(f"{ours}/norm", f"{theirs}.norm.weight"),
        Rule(f"{ours}/out", f"{theirs}.out_proj.weight", "d f -> f d"),
    ]


def ignored(config: decoder.Config) -> tuple[str, ...]:
    """Nothing."""
    return ()


def duplicates(config: decoder.Config) -> dict[str, str]:
    """The table again where it is tied."""
    return {"lm_head.weight": "backbone.embeddings.weight"} if config.tie_embeddings else {}
