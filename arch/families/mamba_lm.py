"""Mamba and Falcon Mamba: nothing but Mamba layers, each behind an RMSNorm.

    x <- x + mamba(norm(x))

Gu, Dao, Mamba: Linear-Time Sequence Modeling with Selective State Spaces, 2023, arXiv 2312.00752, sec. 3.4 and 4.2. The
table is tied and its 50277 ids are padded to a multiple of 8. Falcon Mamba (Zuo et al., Falcon Mamba: The First
Competitive Attention-free 7B Language Model, 2024, arXiv 2410.05355, sec. 2) norms delta, B and C inside the layer,
without learned scales, and has two tables. The layer itself is `arch/mixers/mamba.py`.
"""

from typing import Literal

from arch import config as configs
from arch.families._hyperparameters import confirm, sublayers
from arch.layers import block, norm, stack
from arch.mixers import mamba
from arch.models import decoder
from arch.published import Attributes, Rule


def compose(
    *,
    embed_dim: int,
    num_layers: int,
    vocab_size: int = 50280,
    inner_dim: int = 0,
    state_dim: int = 16,
    conv_width: int = 4,
    dt_rank: int = 0,
    inner_norms: Literal["none", "plain"] = "none",
    inner_epsilon: float = 1e-6,
    epsilon: float = 1e-5,
    tie_embeddings: bool = True,
) -> decoder.Config:
    """The model; `inner_dim` 0 is 2 embed_dim, `dt_rank` 0 embed_dim / 16, rounded up."""
    rms = norm.Config(kind="rms", epsilon=epsilon)
    mixer = mamba.Config(
        inner_dim=inner_dim or 2 * embed_dim,
        state_dim=state_dim,
        conv_width=conv_width,
        dt_rank=dt_rank,
        inner_norms=inner_norms,
        epsilon=inner_epsilon,
    )
    return decoder.Config(
        vocab_size=vocab_size,
        embed_dim=embed_dim,
        layers=stack.Config(pattern=(block.Config(sublayers=(mixer,), norm=rms),), repeats=num_layers),
        norm=rms,
        tie_embeddings=tie_embeddings,
    )


PRESETS = {
    # The paper's sec. 4.2 and appendix E.2 (twice the layers of GPT-3's sizes in Brown et al., 2020, table 2.1).
    "mamba_130m": compose(num_layers=24, embed_dim=768),
    "mamba_370m": compose(num_layers=48, embed_dim=1024),
    "mamba_790m": compose(num_layers=48, embed_dim=1536),
    "mamba_1_4b": compose(num_layers=48, embed_dim=2048),
    "mamba_2_8b": compose(num_layers=64, embed_dim=2560),
    # Falcon Mamba, sec. 2 and its released config.
    "falcon_mamba_7b": compose(
        num_layers=64, embed_dim=4096, vocab_size=65024, inner_norms="plain", tie_embeddings=False
    ),
}

MODEL_TYPES = ("mamba", "falcon_mamba")
PREFIX = "backbone."


def read(attributes: Attributes) -> decoder.Config:
    """Our config from theirs. Raises ValueError on what it cannot express."""
    attributes.expect("use_bias", False)
    attributes.expect("use_conv_bias", True)
    attributes.expect("hidden_act", "silu")
    attributes.expect("rms_norm", True)
    attributes.expect("ssm_cfg", {})
    attributes.ignore("residual_in_fp32", "fused_add_norm", "use_associative_scan")  # how, not what
    attributes.ignore("use_mambapy", "use_falcon_mambapy")
    attributes.ignore("rescale_prenorm_residual", *(f"time_step_{what}" for what in ("floor", "init_scheme", "max")))
    attributes.ignore("time_step_min", "time_step_scale")  # how training starts
    attributes.ignore("d_model", "d_inner", "n_layer", "pad_vocab_size_multiple")  # said twice
    embed_dim, rank = attributes.get("hidden_size"), attributes.get("time_step_rank", "auto")
    expanded = int(attributes.get("expand", 2) * embed_dim)
    norms = {}
    if attributes.get("model_type", "mamba") == "falcon_mamba":
        norms = {"inner_norms": "plain", "inner_epsilon": attributes.get("mixer_rms_eps", 1e-6)}
    config = compose(
        embed_dim=embed_dim,
        num_layers=attributes.get("num_hidden_layers"),
        vocab_size=attributes.get("vocab_size"),
        inner_dim=attributes.get("intermediate_size", expanded),  # Falcon Mamba's `expand` is 16, and not meant
        state_dim=attributes.get("state_size", 16),
        conv_width=attributes.get("conv_kernel", 4),
        dt_rank=0 if rank in ("auto", _rank(embed_dim)) else rank,
        **norms,
        epsilon=attributes.get("layer_norm_epsilon", 1e-5),
        tie_embeddings=attributes.get("tie_word_embeddings", True),
    )
    attributes.finish()
    return config


def write(config: configs.Config) -> dict:
    """Their config.json from ours. Raises ValueError on what it cannot express."""
    (mixer,) = sublayers(config, decoder.Config, mamba.Config)
    if mixer.inner_norms == "scaled":
        raise ValueError("inner_norms='scaled' must be 'none' or 'plain' in this family")
    found = {
        "embed_dim": config.embed_dim,
        "num_layers": len(config.layers.blocks),
        "vocab_size": config.vocab_size,
        "inner_dim": mixer.inner_dim,
        "state_dim": mixer.state_dim,
        "conv_width": mixer.conv_width,
        "dt_rank": mixer.dt_rank,
        "inner_norms": mixer.inner_norms,
        "inner_epsilon": mixer.epsilon,
        "epsilon": config.norm.epsilon,
        "tie_embeddings": config.tie_embeddings,
    }
    confirm(config, compose(**found))
    expand, rest = divmod(mixer.inner_dim, config.embed_dim)
    if rest:
        raise ValueError(f"inner_dim={mixer.inner_dim} must be a multiple of embed_dim={config.embed_dim}")
    if mixer.inner_norms == "plain":
        head = {"architectures": ["FalconMambaForCausalLM"], "model_type": "falcon_mamba"}
        head |= {"mixer_rms_eps": mixer.epsilon}
    else:
        head = {"architectures": ["MambaForCausalLM"], "model_type": "mamba"}
    return head | {
        "hidden_size": found["embed_dim"],
        "num_hidden_layers": found["num_layers"],
        "vocab_size": found["vocab_size"],
        "expand": expand,
        "state_size": found["state_dim"],
        "conv_kernel": found["conv_width"],
        "time_step_rank": mixer.dt_rank or _rank(config.embed_dim),
        "layer_norm_epsilon": found["epsilon"],
        "tie_word_embeddings": found["tie_embeddings"],
    }


def _rank(embed_dim):
    return -(-embed_dim // 16)


def rules(config: decoder.Config) -> list[Rule]:
    """One rule a tensor; two of theirs hold several of ours, one below the other."""
    out = [Rule("embedding/table", "backbone.embeddings.weight"), Rule("norm/scale", "backbone.norm_f.weight")]
    if not config.tie_embeddings:
        out.append(Rule("embedding/output", "lm_head.weight"))
    for i, layer in enumerate(config.layers.blocks):
        [mixer], ours, theirs = layer.sublayers, f"layers/{i}/mamba", f"backbone.layers.{i}"
        out.append(Rule(f"{ours}_norm/scale", f"{theirs}.norm.weight"))
        out += mixer_rules(mixer, ours, f"{theirs}.mixer", config.embed_dim)
    return out


def mixer_rules(mixer: mamba.Config, ours: str, theirs: str, embed_dim: int) -> list[Rule]:
    """The rules of one Mamba, whose tensors begin with `theirs`."""
    f, n, r = mixer.inner_dim, mixer.state_dim, mixer.rank(embed_dim)
    low = (f"{ours}/dt_down", f"{ours}/B", f"{ours}/C")
    return [
        Rule((f"{ours}/in", f"{ours}/gate"), f"{theirs}.in_proj.weight", "f d -> d f", cuts=(f, f)),
        Rule(f"{ours}/conv", f"{theirs}.conv1d.weight", "f 1 w -> w f"),
        Rule(f"{ours}/conv_bias", f"{theirs}.conv1d.bias"),
        Rule(low, f"{theirs}.x_proj.weight", "r f -> f r", cuts=(r, n, n)),
        Rule(f"{ours}/dt_up", f"{theirs}.dt_proj.weight", "f r -> r f"),
        Rule(f"{ours}/dt_bias", f"{theirs}.dt_proj.bias"),
        Rule(f"{ours}/A_log", f"{theirs}.A_log"),
        Rule(f"{ours}/D", f"{theirs}.D"),
        Rule(f"{ours}/out", f"{theirs}.out_proj.weight", "d f -> f d"),
    ]


def ignored(config: decoder.Config) -> tuple[str, ...]:
    """Nothing."""
    return ()


def duplicates(config: decoder.Config) -> dict[str, str]:
    """The table again where it is tied."""
    return {"lm_head.weight": "backbone.embeddings.weight"} if config.tie_embeddings else {}
