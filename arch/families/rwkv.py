"""RWKV-4: layers of time mixing and channel mixing, each behind a LayerNorm, and one more behind the embedding.

    x <- x + time_mix(norm(x));   x <- x + channel_mix(norm(x))

Peng et al., RWKV: Reinventing RNNs for the Transformer Era, 2023, arXiv 2305.13048, sec. 3 and table 2. The sublayers
themselves are `arch/mixers/rwkv4.py` and `arch/ffns/channel_mix.py`.
"""

from arch import config as configs
from arch.families._hyperparameters import confirm, sublayers
from arch.ffns import channel_mix
from arch.layers import block, norm, stack
from arch.mixers import rwkv4
from arch.models import decoder
from arch.published import Attributes, Rule


def compose(
    *, embed_dim: int, num_layers: int, vocab_size: int = 50277, hidden_dim: int = 0, tie_embeddings: bool = False
) -> decoder.Config:
    """The model; `hidden_dim` 0 is 4 embed_dim."""
    layer_norm = norm.Config(kind="layer", bias=True, epsilon=1e-5)
    parts = (rwkv4.Config(), channel_mix.Config(hidden_dim=hidden_dim or 4 * embed_dim))
    return decoder.Config(
        vocab_size=vocab_size,
        embed_dim=embed_dim,
        layers=stack.Config(pattern=(block.Config(sublayers=parts, norm=layer_norm),), repeats=num_layers),
        embedding_norm=True,
        norm=layer_norm,
        tie_embeddings=tie_embeddings,
    )


PRESETS = {
    # The paper's table 2.
    "rwkv4_169m": compose(num_layers=12, embed_dim=768),
    "rwkv4_430m": compose(num_layers=24, embed_dim=1024),
    "rwkv4_1_5b": compose(num_layers=24, embed_dim=2048),
    "rwkv4_3b": compose(num_layers=32, embed_dim=2560),
    "rwkv4_7b": compose(num_layers=32, embed_dim=4096),
    "rwkv4_14b": compose(num_layers=40, embed_dim=5120),
}

MODEL_TYPES = ("rwkv",)
PREFIX = "rwkv."


def read(attributes: Attributes) -> decoder.Config:
    """Our config from theirs. Raises ValueError on what it cannot express."""
    embed_dim = attributes.get("hidden_size")
    attributes.expect("attention_hidden_size", None, embed_dim)
    attributes.expect("layer_norm_epsilon", 1e-5)  # the last norm has it whatever is said
    attributes.ignore("rescale_every")  # halves stream and weights alike, for half precision
    attributes.ignore("context_length", "max_position_embeddings")  # of training
    config = compose(
        embed_dim=embed_dim,
        num_layers=attributes.get("num_hidden_layers"),
        vocab_size=attributes.get("vocab_size", 50277),
        hidden_dim=attributes.get("intermediate_size", 0),
        tie_embeddings=attributes.get("tie_word_embeddings", False),
    )
    attributes.finish()
    return config


def write(config: configs.Config) -> dict:
    """Their config.json from ours. Raises ValueError on what it cannot express."""
    _, ffn = sublayers(config, decoder.Config, rwkv4.Config, channel_mix.Config)
    found = {
        "embed_dim": config.embed_dim,
        "num_layers": len(config.layers.blocks),
        "vocab_size": config.vocab_size,
        "hidden_dim": ffn.hidden_dim,
        "tie_embeddings": config.tie_embeddings,
    }
    confirm(config, compose(**found))
    return {
        "architectures": ["RwkvForCausalLM"],
        "model_type": "rwkv",
        "hidden_size": found["embed_dim"],
        "attention_hidden_size": found["embed_dim"],
        "num_hidden_layers": found["num_layers"],
        "vocab_size": found["vocab_size"],
        "intermediate_size": found["hidden_dim"],
        "layer_norm_epsilon": 1e-5,
        "tie_word_embeddings": found["tie_embeddings"],
    }


def rules(config: decoder.Config) -> list[Rule]:
    """One rule a tensor."""
    out = [Rule("embedding/table", "rwkv.embeddings.weight")]
    out += _norm_rules("embedding_norm", "rwkv.blocks.0.pre_ln") + _norm_rules("norm", "rwkv.ln_out")
    if not config.tie_embeddings:
        out.append(Rule("embedding/output", "head.weight"))
    for i in range(len(config.layers.blocks)):
        ours, theirs = f"layers/{i}", f"rwkv.blocks.{i}"
        out += _norm_rules(f"{ours}/rwkv4_norm", f"{theirs}.ln1")
        out += _norm_rules(f"{ours}/channel_mix_norm", f"{theirs}.ln2")
        out += _mixing_rules(f"{ours}/rwkv4", f"{theirs}.attention", ("key", "value", "receptance"), ("out", "output"))
        out.append(Rule(f"{ours}/rwkv4/decay", f"{theirs}.attention.time_decay"))
        out.append(Rule(f"{ours}/rwkv4/bonus", f"{theirs}.attention.time_first"))
        out += _mixing_rules(f"{ours}/channel_mix", f"{theirs}.feed_forward", ("key", "receptance"), ("value", "value"))
    return out


def _norm_rules(ours, theirs):
    return [Rule(f"{ours}/scale", f"{theirs}.weight"), Rule(f"{ours}/bias", f"{theirs}.bias")]


def _mixing_rules(ours, theirs, mixed, last):
    """Of the products of mixtures, with their shares, and of the last product, (its name here, its name there)."""
    products = [*((name, name) for name in mixed), last]
    shares = [Rule(f"{ours}/mix_{name}", f"{theirs}.time_mix_{name}", "1 1 d -> d") for name in mixed]
    return shares + [Rule(f"{ours}/{here}", f"{theirs}.{there}.weight", "f d -> d f") for here, there in products]


def ignored(config: decoder.Config) -> tuple[str, ...]:
    """Nothing."""
    return ()


def duplicates(config: decoder.Config) -> dict[str, str]:
    """The table again where it is tied."""
    return {"head.weight": "rwkv.embeddings.weight"} if config.tie_embeddings else {}
