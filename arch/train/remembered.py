"""What a model remembers of a row while it decodes: bytes of its layers' caches, by the sublayers' labels."""

import math
from typing import Any

import jax
import jax.numpy as jnp

LONG = 100_000
"""Tokens of a row at which what grows can be told from what does not."""


def remembered(model_cfg: Any, length: int) -> dict[str, int]:
    """Bytes for one row of so many tokens, by label, of all layers together; {} for a model that does not decode.

    Args:
      model_cfg: of the model.
      length: tokens that there is room for.
    """
    if not hasattr(model_cfg, "init_cache"):
        return {}
    layers = getattr(model_cfg, "layers", None) or model_cfg.decoder
    make = lambda: layers.init_cache(1, length, model_cfg.embed_dim, jnp.dtype(model_cfg.dtype))
    out: dict[str, int] = {}
    for caches in jax.eval_shape(make):
        for label, cache in caches.items():
            leaves = jax.tree.leaves(cache)
            out[label] = out.get(label, 0) + sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in leaves)
    return out


def table(model_cfg: Any, length: int) -> str:
    """The bytes at this length and at `LONG` tokens, as Markdown."""
    sizes = [remembered(model_cfg, tokens) for tokens in (length, LONG)]
    if not sizes[0]:
        return "Nothing: the model does not decode, or remembers no token."
    rows = [f"| {label} | {size:,} | {sizes[1][label]:,} |" for label, size in sizes[0].items()]
    return "\n".join([f"| sublayers | bytes at {length:,} tokens | at {LONG:,} |", "|---|---|---|", *rows])
