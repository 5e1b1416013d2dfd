"""GPT-NeoX: attention and feed-forward sublayer in parallel, each behind its own LayerNorm; partial rotary positions.

    x <- x + attention(norm_1(x)) + W_2 gelu(W_1 norm_2(x))

A quarter of each head's channels turns. Black et al., GPT-NeoX-20B, 2022, arXiv 2204.06745, sec. 2.1; Pythia: Biderman
et al., 2023, arXiv 2304.01373, table 1.

Some descendants run the sublayers one after the other (`parallel=False`). GPT-J (model type `gptj`), which has one norm
for both and interleaved rotation, is not read: its unembedding has a shift, which no model here has.
"""

from arch import config as configs
from arch.families._hyperparameters import channels_a_head, confirm, sublayers
from arch.families._rules import fused, linear, norm_rules
from arch.families._vocabulary import read_activation, read_rope, write_activation, write_rope
from arch.ffns import mlp
from arch.layers import block, norm, stack
from arch.mixers import attention
from arch.models import decoder
from arch.ops.activation import Activation
from arch.positions import rope
from arch.published import Attributes, Rule


def compose(
    *,
    vocab_size: int,
    embed_dim: int,
    num_layers: int,
    num_heads: int,
    hidden_dim: int = 0,
    position: rope.Config = rope.Config(fraction=0.25),
    epsilon: float = 1e-5,
    activation: Activation = "gelu",
    parallel: bool = True,
    attention_bias: bool = True,
    attention_dropout: float = 0.0,
    residual_dropout: float = 0.0,
    tie_embeddings: bool = False,
) -> decoder.Config:
    """The model; `hidden_dim` 0 is 4 embed_dim. Raises ValueError when the share of a head that turns is odd."""
    head_dim = channels_a_head(embed_dim, num_heads)
    if int(head_dim * position.fraction) % 2:
        raise ValueError(f"fraction={position.fraction} of head_dim={head_dim} must be an even number of channels")
    layer_norm = norm.Config(kind="layer", epsilon=epsilon, bias=True)
    mixer = attention.Config(
        num_heads=num_heads,
        head_dim=head_dim,
        position=position,
        bias="all" if attention_bias else "none",
        dropout=attention_dropout,
    )
    ffn = mlp.Config(hidden_dim=hidden_dim or 4 * embed_dim, activation=activation, bias=True)
    layer = block.Config(
        sublayers=(mixer, ffn),
        norm=layer_norm,
        placement="parallel_norms" if parallel else "pre",
        dropout=residual_dropout,
    )
    return decoder.Config(
        vocab_size=vocab_size,
        embed_dim=embed_dim,
        layers=stack.Config(pattern=(layer,), repeats=num_layers),
        norm=layer_norm,
        tie_embeddings=tie_embeddings,
    )


def _pythia(num_layers, embed_dim, num_heads, vocab_size=50304):
    return compose(num_layers=num_layers, embed_dim=embed_dim, num_heads=num_heads, vocab_size=vocab_size)


PRESETS = {
    # GPT-NeoX-20B, sec. 2.1 and table 1.
    "gpt_neox_20b": compose(num_layers=44, embed_dim=6144, num_heads=64, vocab_size=50432, activation="gelu_tanh"),
    # Pythia, table 1; the tables are padded as in the released configs.
    "pythia_70m": _pythia(6, 512, 8),
    "pythia_160m": _pythia(12, 768, 12),
    "pythia_410m": _pythia(24, 1024, 16),
    "pythia_1b": _pythia(16, 2048, 8),
    "pythia_1_4b": _pythia(24, 2048, 16),
    "pythia_2_8b": _pythia(32, 2560, 32),
    "pythia_6_9b": _pythia(32, 4096, 32, 50432),
    "pythia_12b": _pythia(36, 5120, 40, 50688),
}

MODEL_TYPES = ("gpt_neox",)
PREFIX = "gpt_neox."

NAMES = {
    "vocab_size": ("vocab_size",),
    "embed_dim": ("hidden_size",),
    "num_layers": ("num_hidden_layers",),
    "num_heads": ("num_attention_heads",),
    "hidden_dim": ("intermediate_size",),
    "epsilon": ("layer_norm_eps", 1e-5),
    "parallel": ("use_parallel_residual", True),
    "attention_bias": ("attention_bias", True),
    "attention_dropout": ("attention_dropout", 0.0),
    "residual_dropout": ("hidden_dropout", 0.0),
    "tie_embeddings": ("tie_word_embeddings", False),
}
"""Their attributes, with defaults, by our hyperparameters."""

ROPE = {"theta": "rotary_emb_base", "fraction": "rotary_pct"}


def read(attributes: Attributes) -> decoder.Config:
    """Our config from theirs. Raises ValueError on what it cannot express."""
    attributes.expect("attention_probs_dropout_prob", 0, 0.0)  # GPT-NeoX-20B's
    attributes.expect("hidden_dropout_prob", 0, 0.0)
    attributes.ignore("classifier_dropout", "is_decoder")
    config = compose(
        **{ours: attributes.get(*theirs) for ours, theirs in NAMES.items()},
        position=read_rope(attributes, **ROPE, share=0.25),
        activation=read_activation(attributes, "hidden_act", "gelu"),
    )
    attributes.finish()
    return config


def write(config: configs.Config) -> dict:
    """Their config.json from ours. Raises ValueError on what it cannot express."""
    mixer, ffn = sublayers(config, decoder.Config, attention.Config, mlp.Config)
    layer, rotary = config.layers.blocks[0], write_rope(mixer.position, **ROPE)
    found = {
        "vocab_size": config.vocab_size,
        "embed_dim": config.embed_dim,
        "num_layers": len(config.layers.blocks),
        "num_heads": mixer.num_heads,
        "hidden_dim": ffn.hidden_dim,
        "epsilon": layer.norm.epsilon,
        "parallel": layer.placement == "parallel_norms",
        "attention_bias": mixer.bias == "all",
        "attention_dropout": mixer.dropout,
        "residual_dropout": layer.dropout,
        "tie_embeddings": config.tie_embeddings,
    }
    confirm(config, compose(**found, position=mixer.position, activation=ffn.activation))
    out = {"architectures": ["GPTNeoXForCausalLM"], "model_type": "gpt_neox"}
    out |= {NAMES[ours][0]: value for ours, value in found.items()}
    return out | rotary | {"hidden_act": write_activation(ffn.activation)}


def rules(config: decoder.Config) -> list[Rule]:
    """One rule a tensor; query, key and value are one, head by head."""
    out = [Rule("embedding/table", "gpt_neox.embed_in.weight")] + norm_rules("norm", "gpt_neox.final_layer_norm")
    if not config.tie_embeddings:
        out.append(Rule("embedding/output", "embed_out.weight"))
    for i, layer in enumerate(config.layers.blocks):
        ours, theirs, (mixer, ffn) = f"layers/{i}", f"gpt_neox.layers.{i}", layer.sublayers
        out += norm_rules(f"{ours}/attention_norm", f"{theirs}.input_layernorm")
        out += norm_rules(f"{ours}/mlp_norm", f"{theirs}.post_attention_layernorm")
        out += fused(f"{ours}/attention", f"{theirs}.attention", mixer)
        out += linear(f"{ours}/mlp/up", f"{theirs}.mlp.dense_h_to_4h", bias=ffn.bias)
        out += linear(f"{ours}/mlp/down", f"{theirs}.mlp.dense_4h_to_h", bias=ffn.bias)
    return out


def ignored(config: decoder.Config) -> tuple[str, ...]:
    """Causal masks and frequencies that older files hold."""
    return (r"gpt_neox\.layers\.\d+\.attention\.(masked_bias|bias|rotary_emb\.inv_freq)",)


def duplicates(config: decoder.Config) -> dict[str, str]:
    """The table again where it is tied."""
    return {"embed_out.weight": "gpt_neox.embed_in.weight"} if config.tie_embeddings else {}
