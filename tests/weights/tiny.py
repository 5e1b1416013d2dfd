"""A family for tests, with every kind of rule: as it is, rearranged, one cut into several, several stacked into one."""

import pathlib

from arch.ffns import moe
from arch.layers import block, stack
from arch.mixers import attention
from arch.models import decoder
from arch.published import Rule

ROOT = pathlib.Path(__file__).resolve().parents[2]
HEADS, HEAD_DIM, EXPERTS = 4, 6, 3


def compose(*, embed_dim=8, hidden_dim=10, num_layers=2, vocab_size=14, tie_embeddings=False):
    mixer = attention.Config(num_heads=HEADS, num_kv_heads=2, head_dim=HEAD_DIM)
    ffn = moe.Config(num_experts=EXPERTS, top_k=2, hidden_dim=hidden_dim)
    layers = stack.Config(pattern=(block.Config(sublayers=(mixer, ffn)),), repeats=num_layers)
    return decoder.Config(vocab_size=vocab_size, embed_dim=embed_dim, layers=layers, tie_embeddings=tie_embeddings)


MODEL_TYPES = ("tiny",)
PREFIX = "model."
NAMES = ("embed_dim", "num_layers", "vocab_size", "hidden_dim", "tie_embeddings")


def read(attributes):
    return compose(**{name: attributes.get(name) for name in NAMES})


def write(config):
    if not isinstance(config, decoder.Config):
        raise ValueError("no decoder")
    ffn = config.layers.blocks[0].sublayers[1]
    values = (config.embed_dim, len(config.layers.blocks), config.vocab_size, ffn.hidden_dim, config.tie_embeddings)
    if compose(**dict(zip(NAMES, values, strict=True))) != config:
        raise ValueError("more than a tiny model")
    return {"model_type": "tiny"} | dict(zip(NAMES, values, strict=True))


def rules(config):
    out = [Rule("embedding/table", "model.embed"), Rule("norm/scale", "model.norm")]
    if not config.tie_embeddings:
        out.append(Rule("embedding/output", "head"))
    for i in range(len(config.layers.blocks)):
        ours, theirs = f"layers/{i}", f"model.h.{i}"
        heads = (f"{ours}/attention/query", f"{ours}/attention/key", f"{ours}/attention/value")
        cuts = (HEADS * HEAD_DIM, 2 * HEAD_DIM, 2 * HEAD_DIM)
        out += [
            Rule(heads, f"{theirs}.qkv", "(n h) d -> d n h", cuts=cuts, h=HEAD_DIM),
            Rule(f"{ours}/attention/out", f"{theirs}.out", "d (n h) -> n h d", n=HEADS),
            Rule(f"{ours}/attention_norm/scale", f"{theirs}.norm"),
            Rule(f"{ours}/moe/router", f"{theirs}.router", "e d -> d e"),
            Rule(f"{ours}/moe_norm/scale", f"{theirs}.moe_norm"),
        ]
        for name, pattern in (("gate", "e f d -> e d f"), ("up", "e f d -> e d f"), ("down", "e d f -> e f d")):
            out.append(Rule(f"{ours}/moe/{name}", [f"{theirs}.{name}.{e}" for e in range(EXPERTS)], pattern))
    return out


def ignored(config):
    return (r"model\.h\.\d+\.mask",)


def duplicates(config):
    return {"head": "model.embed"} if config.tie_embeddings else {}
