"""Falcon: attention and feed-forward sublayer in parallel, few key-value heads, no shifts in the matrices.

    7B           x <- x + attention(norm(x)) + mlp(norm(x))             one key-value head for all queries
    40B, 180B    x <- x + attention(norm_1(x)) + mlp(norm_2(x))         eight
    RW           x <- x + attention(norm(x));  x <- x + mlp(norm(x))    one a query; ALiBi, shifts

Almazrouei et al., The Falcon Series of Open Language Models, 2023, arXiv 2311.16867, sec. 4 and table 14; Falcon-RW:
Penedo et al., The RefinedWeb Dataset, 2023, arXiv 2306.01116; Falcon2-11B (one norm, eight heads): Malartic et al.,
2024, arXiv 2407.14885.

Falcon-RW adds ALiBi's bias before it scales the logits. transformers rounds that bias to bfloat16; here it is float32.
Its `eager` attention adds the bias twice (5.23.0: in the mask and in the layer), `sdpa` once, as here.
"""

from typing import Literal

from arch import config as configs
from arch.families._hyperparameters import channels_a_head, confirm, sublayers
from arch.families._rules import fused, linear, norm_rules
from arch.families._vocabulary import read_activation, read_rope, write_activation, write_rope
from arch.ffns import mlp
from arch.layers import block, norm, stack
from arch.layers.contract import Position
from arch.mixers import attention
from arch.models import decoder
from arch.ops.activation import Activation
from arch.positions import alibi, rope
from arch.published import Attributes, Rule

Placement = Literal["pre", "parallel", "parallel_norms"]


def compose(
    *,
    embed_dim: int,
    num_layers: int,
    num_heads: int,
    num_kv_heads: int = 1,
    hidden_dim: int = 0,
    vocab_size: int = 65024,
    placement: Placement = "parallel",
    position: Position = rope.Config(),
    epsilon: float = 1e-5,
    activation: Activation = "gelu",
    bias: bool = False,
    attention_dropout: float = 0.0,
    residual_dropout: float = 0.0,
    tie_embeddings: bool = True,
) -> decoder.Config:
    """The model; `hidden_dim` 0 is 4 embed_dim."""
    layer_norm = norm.Config(kind="layer", epsilon=epsilon, bias=True)
    mixer = attention.Config(
        num_heads=num_heads,
        head_dim=channels_a_head(embed_dim, num_heads),
        num_kv_heads=num_kv_heads,
        position=position,
        bias="all" if bias else "none",
        dropout=attention_dropout,
    )
    ffn = mlp.Config(hidden_dim=hidden_dim or 4 * embed_dim, activation=activation, bias=bias)
    layer = block.Config(sublayers=(mixer, ffn), norm=layer_norm, placement=placement, dropout=residual_dropout)
    return decoder.Config(
        vocab_size=vocab_size,
        embed_dim=embed_dim,
        layers=stack.Config(pattern=(layer,), repeats=num_layers),
        norm=layer_norm,
        tie_embeddings=tie_embeddings,
    )


def slopes(embed_dim: int, num_heads: int) -> alibi.Config:
    """Falcon's ALiBi, whose bias is scaled with the logits."""
    return alibi.Config(factor=channels_a_head(embed_dim, num_heads) ** -0.5)


PRESETS = {
    # The Falcon Series, table 14.
    "falcon_7b": compose(num_layers=32, embed_dim=4544, num_heads=71),
    "falcon_40b": compose(num_layers=60, embed_dim=8192, num_heads=128, num_kv_heads=8, placement="parallel_norms"),
    "falcon_180b": compose(num_layers=80, embed_dim=14848, num_heads=232, num_kv_heads=8, placement="parallel_norms"),
    # Falcon2-11B, its model card.
    "falcon2_11b": compose(
        num_layers=60,
        embed_dim=4096,
        num_heads=32,
        num_kv_heads=8,
        position=rope.Config(theta=500042.0),
        tie_embeddings=False,
    ),
    # Falcon-RW-1B, its model card.
    "falcon_rw_1b": compose(
        num_layers=24,
        embed_dim=2048,
        num_heads=32,
        num_kv_heads=32,
        vocab_size=50304,
        placement="pre",
        position=slopes(2048, 32),
        bias=True,
    ),
}

MODEL_TYPES = ("falcon",)
PREFIX = "transformer."

NAMES = {
    "embed_dim": ("hidden_size",),
    "num_layers": ("num_hidden_layers",),
    "num_heads": ("num_attention_heads",),
    "hidden_dim": ("ffn_hidden_size", 0),
    "vocab_size": ("vocab_size",),
    "epsilon": ("layer_norm_epsilon", 1e-5),
    "bias": ("bias", False),
    "attention_dropout": ("attention_dropout", 0.0),
    "residual_dropout": ("hidden_dropout", 0.0),
    "tie_embeddings": ("tie_word_embeddings", True),
}
"""Their attributes, with defaults, by our hyperparameters."""


NORMS = {
    "pre": {"attention_norm": "input_layernorm", "mlp_norm": "post_attention_layernorm"},
    "parallel": {"norm": "input_layernorm"},
    "parallel_norms": {"attention_norm": "ln_attn", "mlp_norm": "ln_mlp"},
}
"""Their norms by ours, for each placement."""


def read(attributes: Attributes) -> decoder.Config:
    """Our config from theirs. Raises ValueError on what it cannot express."""
    attributes.expect("apply_residual_connection_post_layernorm", False)
    attributes.ignore("auto_map")
    found = {ours: attributes.get(*theirs) for ours, theirs in NAMES.items()}
    rotary = read_rope(attributes)
    config = compose(
        **found,
        **_heads_and_norms(attributes, found["num_heads"]),
        position=slopes(found["embed_dim"], found["num_heads"]) if attributes.get("alibi", False) else rotary,
        activation=read_activation(attributes, "activation", "gelu"),
    )
    attributes.finish()
    return config


def _heads_and_norms(attributes: Attributes, num_heads: int) -> dict:
    """Theirs is a "new" architecture (40B on) with any number of key-value heads, or an old one with one or all."""
    parallel, multi_query = attributes.get("parallel_attn", True), attributes.get("multi_query", True)
    heads = attributes.get("num_kv_heads", num_heads)
    if attributes.get("new_decoder_architecture", False):
        attributes.expect("parallel_attn", True)
        norms = attributes.get("num_ln_in_parallel_attn", 2)
        return {"num_kv_heads": heads, "placement": "parallel_norms" if norms == 2 else "parallel"}
    attributes.expect("num_ln_in_parallel_attn", 1, None)
    return {"num_kv_heads": 1 if multi_query else num_heads, "placement": "parallel" if parallel else "pre"}


def write(config: configs.Config) -> dict:
    """Their config.json from ours. Raises ValueError on what it cannot express."""
    mixer, ffn = sublayers(config, decoder.Config, attention.Config, mlp.Config)
    layer = config.layers.blocks[0]
    if layer.placement not in NORMS:
        raise ValueError(f"placement={layer.placement!r} must be one of {', '.join(NORMS)} in this family")
    found = {
        "embed_dim": config.embed_dim,
        "num_layers": len(config.layers.blocks),
        "num_heads": mixer.num_heads,
        "hidden_dim": ffn.hidden_dim,
        "vocab_size": config.vocab_size,
        "epsilon": layer.norm.epsilon,
        "bias": ffn.bias,
        "attention_dropout": mixer.dropout,
        "residual_dropout": layer.dropout,
        "tie_embeddings": config.tie_embeddings,
    }
    biased = isinstance(mixer.position, alibi.Config)
    position = slopes(config.embed_dim, mixer.num_heads) if biased else mixer.position
    heads = {"num_kv_heads": mixer.kv_heads, "placement": layer.placement}
    confirm(config, compose(**found, **heads, position=position, activation=ffn.activation))
    out = {"architectures": ["FalconForCausalLM"], "model_type": "falcon"}
    out |= {NAMES[ours][0]: value for ours, value in found.items()} | _written_heads_and_norms(layer)
    out |= {"alibi": True} if biased else write_rope(position) | {"alibi": False}
    return out | {"activation": write_activation(ffn.activation)}


def _written_heads_and_norms(layer: block.Config) -> dict:
    """The attributes of `_heads_and_norms`."""
    mixer = layer.sublayers[0]
    new = layer.placement == "parallel_norms" or mixer.kv_heads not in (1, mixer.num_heads)
    if new and layer.placement == "pre":
        rule = f"must be 1 or num_heads={mixer.num_heads} with placement='pre' in this family"
        raise ValueError(f"num_kv_heads={mixer.kv_heads} {rule}")
    out = {"new_decoder_architecture": new, "multi_query": mixer.kv_heads == 1, "num_kv_heads": mixer.kv_heads}
    out |= {"parallel_attn": layer.placement != "pre"}
    return out | {"num_ln_in_parallel_attn": 2 if layer.placement == "parallel_norms" else 1} if new else out


def rules(config: decoder.Config) -> list[Rule]:
    """One rule a tensor; query, key and value are one, group by group."""
    out = [Rule("embedding/table", "transformer.word_embeddings.weight")] + norm_rules("norm", "transformer.ln_f")
    if not config.tie_embeddings:
        out.append(Rule("embedding/output", "lm_head.weight"))
    for i, layer in enumerate(config.layers.blocks):
        ours, theirs, (mixer, ffn) = f"layers/{i}", f"transformer.h.{i}", layer.sublayers
        for name, other in NORMS[layer.placement].items():
            out += norm_rules(f"{ours}/{name}", f"{theirs}.{other}")
        out += fused(f"{ours}/attention", f"{theirs}.self_attention", mixer)
        out += linear(f"{ours}/mlp/up", f"{theirs}.mlp.dense_h_to_4h", bias=ffn.bias)
        out += linear(f"{ours}/mlp/down", f"{theirs}.mlp.dense_4h_to_h", bias=ffn.bias)
    return out


def ignored(config: decoder.Config) -> tuple[str, ...]:
    """Frequencies that older files hold."""
    return (r"transformer\.h\.\d+\.self_attention\.rotary_emb\.inv_freq",)


def duplicates(config: decoder.Config) -> dict[str, str]:
    """The table again where it is tied."""
    return {"lm_head.weight": "transformer.word_embeddings.weight"} if config.tie_embeddings else {}
