"""Performer: a Transformer whose attention is FAVOR+, in time linear in the length; causal, or looking both ways.

    x_0 = W_e[token] + position;   x <- x + favor(norm(x));   x <- x + W_2 gelu(W_1 norm(x) + b_1) + b_2

Choromanski et al., Rethinking Attention with Performers, 2020, arXiv 2009.14794, sec. 4 and app. A. The attention
itself is `arch/mixers/performer.py`. The paper published no weights. Those read and written here are of the package
performer-pytorch (1.1.4), whose attention may turn queries and keys as well; its config.json holds the arguments of
PerformerLM and `"model_type": "performer_pytorch"`. It adds 1e-4 to each positive feature, beside the greatest of the
row's projections, and 1e-6 to causal sums; we add 1e-6 (app. A.3) beside the greatest feature so far. Where features
are smaller than that, and so where vectors are long, the two differ.
"""

import math
from typing import Literal

from arch import config as configs
from arch.families._hyperparameters import channels_a_head, confirm, sublayers
from arch.families._rules import linear, norm_rules
from arch.ffns import gated_mlp, mlp
from arch.heads import unembedding
from arch.layers import block, norm, stack
from arch.layers.contract import Position
from arch.mixers import performer
from arch.models import decoder, encoder
from arch.ops.linear_attention.favor import Kernel
from arch.positions import learned, none, rope, sinusoidal
from arch.published import Attributes, Rule

SINES = dict(position=sinusoidal.Config(pairing="halves"), rotation=rope.Config(pairing="interleaved"))
"""The package's positions, unless they are learned: at the input, and of queries and keys."""


def compose(
    *,
    embed_dim: int,
    num_layers: int,
    num_heads: int,
    vocab_size: int,
    head_dim: int = 0,
    hidden_dim: int = 0,
    causal: bool = True,
    num_features: int = 256,
    kernel: Kernel = "positive",
    redraw_every: int = 0,
    position: Position = sinusoidal.Config(),
    rotation: Position = none.Config(),
    ffn: Literal["mlp", "gated_mlp"] = "mlp",
    head: configs.Config = unembedding.Config(),
    dropout: float = 0.0,
) -> decoder.Config | encoder.Config:
    """The model: a decoder if `causal`, else an encoder with `head`; `head_dim` 0 is embed_dim / num_heads.

    `hidden_dim` 0 is 4 embed_dim; `position` acts at the input, `rotation` on heads; `dropout` is of both sublayers.
    """
    layer_norm = norm.Config(kind="layer", epsilon=1e-5, bias=True)
    mixer = performer.Config(
        num_heads=num_heads,
        head_dim=head_dim or channels_a_head(embed_dim, num_heads),
        num_features=num_features,
        kernel=kernel,
        redraw_every=redraw_every,
        position=rotation,
        causal=causal,
    )
    perceptron = {"mlp": mlp.Config, "gated_mlp": gated_mlp.Config}[ffn]
    channels = perceptron(hidden_dim=hidden_dim or 4 * embed_dim, activation="gelu", bias=True)
    layer = block.Config(sublayers=(mixer, channels), norm=layer_norm, dropout=dropout)
    parts = dict(
        vocab_size=vocab_size,
        embed_dim=embed_dim,
        layers=stack.Config(pattern=(layer,), repeats=num_layers),
        position=position,
        norm=layer_norm,
    )
    return decoder.Config(**parts) if causal else encoder.Config(**parts, head=head)


def _protein(**sizes):
    """Of amino acids, 20 and 5 anomalous ones (app. C.2), with ids for start, end, padding and mask."""
    return compose(vocab_size=29, num_heads=8, embed_dim=512, kernel="relu", dropout=0.1, **sizes)


def _image(num_layers):
    return compose(vocab_size=256, num_heads=8, embed_dim=512, num_layers=num_layers, kernel="relu", dropout=0.1)


PRESETS = {
    # Sec. 4.4 and 4.5: (heads, layers, d_ff, d) are (8, 36, 1024, 512) and (8, 6, 2048, 512); A.2 and A.4 for the rest.
    # Sines, and one table, as the paper does not say: its code (protein_lm) adds sines.
    "performer_trembl_causal": _protein(num_layers=36, hidden_dim=1024),
    "performer_trembl": _protein(num_layers=36, hidden_dim=1024, causal=False),
    "performer_trembl_long": _protein(num_layers=6, hidden_dim=2048),
    "performer_imagenet64_6": _image(6),
    "performer_imagenet64_12": _image(12),
}

MODEL_TYPES = ("performer_pytorch",)
PREFIX = ""

LACKING = {
    "local_attn_heads": 0,
    "reversible": False,
    "use_scalenorm": False,
    "use_rezero": False,
    "cross_attend": False,
    "no_projection": False,
    "axial_position_emb": False,
    "axial_position_shape": None,
    "qkv_bias": False,
    "attn_out_bias": False,
    "shift_tokens": False,
}
"""Arguments of PerformerLM, with the one value that is expressed here."""


def read(attributes: Attributes) -> decoder.Config | encoder.Config:
    """Our config from the arguments of PerformerLM. Raises ValueError on what it cannot express."""
    for name, value in LACKING.items():
        attributes.expect(name, value)
    if not attributes.get("tie_embed", False):
        raise ValueError("tie_embed=False must be True: a table of its own for logits, with a bias, is not expressed")
    attributes.ignore("local_window_size", "ff_chunks", "max_seq_len")  # of what is absent; how, not what; of sines
    attributes.ignore("ff_dropout", "attn_dropout", "emb_dropout")  # of training, as are the next
    attributes.ignore("feature_redraw_interval", "auto_check_redraw")
    embed_dim, head_dim = attributes.get("dim"), attributes.get("dim_head", 64)
    rotated = attributes.get("rotary_position_emb", True)
    positions = SINES if rotated else _learned(attributes.get("max_seq_len"))
    config = compose(
        embed_dim=embed_dim,
        num_layers=attributes.get("depth"),
        num_heads=attributes.get("heads"),
        vocab_size=attributes.get("num_tokens"),
        head_dim=head_dim,
        hidden_dim=attributes.get("ff_mult", 4) * embed_dim,
        causal=attributes.get("causal", False),
        num_features=attributes.get("nb_features", int(head_dim * math.log(head_dim))),
        kernel="relu" if attributes.get("generalized_attention", False) else "positive",
        ffn="gated_mlp" if attributes.get("ff_glu", False) else "mlp",
        **positions,
    )
    attributes.finish()
    return config


def _learned(length: int) -> dict:
    return dict(position=learned.Config(length=length), rotation=none.Config())


def write(config: configs.Config) -> dict:
    """The arguments of PerformerLM from our config, but `max_seq_len` where positions are not learned.

    Raises:
      ValueError: it cannot be expressed.
    """
    gated = isinstance(config, (decoder.Config, encoder.Config)) and config.layers.blocks[0].labels[-1] == "gated_mlp"
    kinds = performer.Config, gated_mlp.Config if gated else mlp.Config
    mixer, ffn = sublayers(config, encoder.Config if isinstance(config, encoder.Config) else decoder.Config, *kinds)
    rotated = not isinstance(config.position, learned.Config)
    if mixer.kernel == "trigonometric":
        raise ValueError("kernel='trigonometric' must be 'positive' or 'relu' in this family")
    multiple, rest = divmod(ffn.hidden_dim, config.embed_dim)
    if rest:
        raise ValueError(f"hidden_dim={ffn.hidden_dim} must be a multiple of embed_dim={config.embed_dim}")
    found = {
        "embed_dim": config.embed_dim,
        "num_layers": len(config.layers.blocks),
        "num_heads": mixer.num_heads,
        "vocab_size": config.vocab_size,
        "head_dim": mixer.head_dim,
        "hidden_dim": ffn.hidden_dim,
        "causal": mixer.causal,
        "num_features": mixer.num_features,
        "kernel": mixer.kernel,
    }
    positions = SINES if rotated else _learned(config.position.length)
    confirm(config, compose(**found, **positions, ffn="gated_mlp" if gated else "mlp"))
    length = {} if rotated else {"max_seq_len": config.position.length}
    return length | {
        "model_type": "performer_pytorch",
        "dim": found["embed_dim"],
        "depth": found["num_layers"],
        "heads": found["num_heads"],
        "num_tokens": found["vocab_size"],
        "dim_head": found["head_dim"],
        "ff_mult": multiple,
        "causal": found["causal"],
        "nb_features": found["num_features"],
        "generalized_attention": mixer.kernel == "relu",
        "rotary_position_emb": rotated,
        "ff_glu": gated,
        "tie_embed": True,
    }


def rules(config: decoder.Config | encoder.Config) -> list[Rule]:
    """One rule a tensor, the random vectors among them."""
    out = [Rule("embedding/table", "token_emb.weight"), *norm_rules("norm", "norm")]
    if isinstance(config.position, learned.Config):
        out.append(Rule("position/table", "pos_emb.emb.weight"))
    for i, layer in enumerate(config.layers.blocks):
        (mixer, ffn), ours, theirs = layer.sublayers, f"layers/{i}", f"performer.net.layers.{i}"
        out += norm_rules(f"{ours}/performer_norm", f"{theirs}.0.norm")
        for name in ("query", "key", "value"):
            there = f"{theirs}.0.fn.to_{name[0]}.weight"
            out.append(Rule(f"{ours}/performer/{name}", there, "(n h) d -> d n h", n=mixer.num_heads))
        there = f"{theirs}.0.fn.to_out.weight"
        out.append(Rule(f"{ours}/performer/out", there, "d (n h) -> n h d", n=mixer.num_heads))
        out.append(Rule(f"{ours}/performer/vectors", f"{theirs}.0.fn.fast_attention.projection_matrix"))
        own, there = f"{ours}/{ffn.label}", f"{theirs}.1.fn.fn"
        out += norm_rules(f"{own}_norm", f"{theirs}.1.norm")
        if ffn.label == "mlp":
            out += linear(f"{own}/up", f"{there}.w1", bias=True)
        else:
            halves = dict(cuts=(ffn.hidden_dim, ffn.hidden_dim))
            out.append(Rule((f"{own}/gate", f"{own}/up"), f"{there}.w1.weight", "f d -> d f", **halves))
            out.append(Rule((f"{own}/gate_bias", f"{own}/up_bias"), f"{there}.w1.bias", **halves))
        out += linear(f"{own}/down", f"{there}.w2", bias=True)
    return out


def ignored(config: decoder.Config | encoder.Config) -> tuple[str, ...]:
    """Tables of sines, and when vectors were drawn last."""
    return (r"(layer_)?pos_emb\.emb", r"performer\.proj_updater\.calls_since_last_redraw")


def duplicates(config: decoder.Config | encoder.Config) -> dict[str, str]:
    """All layers again, as what redraws the vectors holds them."""
    of_layers = [name for rule in rules(config) for name in rule.theirs if name.startswith("performer.net.")]
    return {name.replace("net", "proj_updater.instance", 1): name for name in of_layers}
