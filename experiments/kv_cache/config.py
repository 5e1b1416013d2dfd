"""What sharing keys and values between heads saves: bytes of cache a token, and time of a decoded token.

Sources:   Ainslie et al., GQA, 2023, arXiv 2305.13245; Shazeer, Fast Transformer Decoding, 2019, arXiv 1911.02150
Commands:  experiments/kv_cache/README.md has them, and what they gave
Hardware:  2 CPU cores for the time; the sizes are exact

Options, as in `config.py:small`: there is one size.
"""

import functools
import time
from typing import Literal

import jax
import jax.numpy as jnp

from arch import config, hyper, tree
from arch.families import llama, mistral, mixtral
from arch.layers.contract import Context
from arch.layers.weight import unbox
from experiments import options

MODELS = {
    "llama_7b": llama.PRESETS["llama_7b"],
    "llama2_70b": llama.PRESETS["llama2_70b"],
    "mistral_7b": mistral.PRESETS["mistral_7b"],
    "mixtral_8x7b": mixtral.PRESETS["mixtral_8x7b"],
    "smollm2_135m": llama.PRESETS["smollm2_135m"],
}
SHARED = {"llama2_70b": (64, 8, 1)}
"""Models of which other numbers of key-value heads are counted, too."""


@config.frozen
class Config(config.Config):
    """What is measured.

    Attributes:
      what: the size of the caches of MODELS, or the time of a model of the numbers below.
      num_kv_heads: of that model.
      num_heads, head_dim, num_layers, hidden_dim, vocab_size: of it, too.
      batch_size, context: rows that are decoded together, and tokens that their caches have room for.
      turns: tokens of a row that are timed.
    """

    what: Literal["size", "time"] = "size"
    num_kv_heads: config.PositiveInt = 1
    num_heads: config.PositiveInt = 16
    head_dim: config.PositiveInt = 32
    num_layers: config.PositiveInt = 4
    hidden_dim: config.PositiveInt = 1024
    vocab_size: config.PositiveInt = 512
    batch_size: config.PositiveInt = 8
    context: config.PositiveInt = 2048
    turns: config.PositiveInt = 40


def get_config(arg=""):
    """The published models' caches, and a model that two cores decode."""
    options.parse(arg, size=["small"])
    return config.config_dict(Config, {})


def measure(cfg):
    """Rows of sizes, or one of times."""
    return sizes() if cfg.what == "size" else [timed(cfg)]


def sizes():
    """The bytes of each model's cache that a token takes, in 16 bits."""
    for name, model in MODELS.items():
        own = model.layers.pattern[0].sublayers[0].num_kv_heads
        for kv_heads in SHARED.get(name, (own,)):
            lengths = [cache_bytes(with_kv_heads(model, kv_heads), length) for length in (1024, 2048)]
            yield dict(what="size", model=name, kv_heads=kv_heads, bytes=(lengths[1] - lengths[0]) // 1024)


def with_kv_heads(model, kv_heads):
    """The model with another number of key-value heads."""
    (layer,) = model.layers.pattern
    mixer, *others = layer.sublayers
    layer = layer.replace(sublayers=(mixer.replace(num_kv_heads=kv_heads), *others))
    return model.replace(layers=model.layers.replace(pattern=(layer,)), dtype="float16")


def cache_bytes(model, length):
    """Of one row of so many tokens."""
    cache = jax.eval_shape(lambda: model.init_cache(1, length))
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(cache))


def timed(cfg):
    """Least and median milliseconds of a step that decodes a token of each row."""
    model = llama.compose(
        vocab_size=cfg.vocab_size, embed_dim=cfg.num_heads * cfg.head_dim, num_layers=cfg.num_layers,
        num_heads=cfg.num_heads, num_kv_heads=cfg.num_kv_heads, hidden_dim=cfg.hidden_dim,
    )  # fmt: skip
    module, tokens = model.make(), jnp.zeros((cfg.batch_size, 1), jnp.int32)
    params = tree.unstack(unbox(module.init(jax.random.key(0), tokens)["params"]))

    @functools.partial(jax.jit, donate_argnums=1)
    def step(params, cache, tokens, position):
        out = module.apply({"params": params}, tokens, Context(positions=position), cache)
        return jnp.argmax(out.x, axis=-1).astype(jnp.int32), out.cache

    cache, seconds = jax.jit(model.init_cache, static_argnums=(0, 1))(cfg.batch_size, cfg.context), []
    for turn in range(cfg.turns + 1):
        start = time.perf_counter()
        tokens, cache = jax.block_until_ready(step(params, cache, tokens, jnp.full_like(tokens, turn)))
        seconds.append(time.perf_counter() - start)
    least, *_ = behind = sorted(seconds[1:])  # the first compiles
    times = dict(least_ms=1e3 * least, median_ms=1e3 * behind[len(behind) // 2])
    about = dict(what="time", kv_heads=cfg.num_kv_heads, heads=cfg.num_heads, batch_size=cfg.batch_size)
    return about | {name: round(value, 3) for name, value in times.items()}


def sweep():
    """For `--mode=sweep`: the sizes, then the times of multi-head, grouped-query and multi-query attention."""
    times = hyper.product([hyper.sweep("what", ["time"]), hyper.sweep("num_kv_heads", [16, 4, 1])])
    return hyper.chainit([hyper.sweep("what", ["size"]), times])
