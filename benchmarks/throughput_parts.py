"""What the parts of a training step take, each compiled and timed alone: what stands between a step and its products.

A sublayer's part is forward and backward, times the layers; `... of ...` is a part of another part.
"""

import functools

import jax
import jax.numpy as jnp
import optax

from arch.layers.contract import Context
from arch.layers.weight import unbox
from arch.mixers import attention
from arch.ops.chunked_attention import chunked_attend
from arch.ops.loss import cross_entropy
from benchmarks import measure


def parts(cfg, optimizer_cfg, batch: dict) -> dict[str, float]:
    """Seconds of each part of a step of this decoder, the least of a few.

    Args:
      cfg: a decoder whose layers are all alike.
      optimizer_cfg: of the optimizer.
      batch: of the next token.
    """
    rows, length = batch["tokens"].shape
    layers, layer = len(cfg.layers.blocks), cfg.layers.blocks[0]
    context = Context(positions=batch["positions"], segment_ids=batch["segment_ids"])
    x = jnp.ones((rows, length, cfg.embed_dim))
    timed = {}
    for sublayer in layer.sublayers:
        timed[f"{sublayer.label} with projections" if _is_attention(sublayer) else sublayer.label] = layers * _module(
            sublayer.make(), x, context
        )
        if _is_attention(sublayer):
            timed["softmax and its products of attention"] = layers * _core(sublayer, rows, length)
    timed["norms"] = (2 * layers + 1) * _module(layer.norm.make(), x)
    table = jnp.ones((cfg.vocab_size, cfg.embed_dim))
    timed["unembedding and loss"] = _seconds(measure.with_gradients(_loss, 2), x, table, batch["targets"], jnp.ones(()))
    lookup = measure.with_gradients(lambda table, tokens: table[tokens], 1)
    timed["embedding"] = _seconds(lookup, table, batch["tokens"], x)
    timed["optimizer"] = _optimizer(cfg, optimizer_cfg)
    return timed


def _is_attention(sublayer) -> bool:
    return isinstance(sublayer, attention.Config)


def _seconds(function, *args) -> float:
    (found,) = measure.measure({"": function}, *args, peer="")
    return found["least_ms"] / 1e3


def _module(module, x, *rest) -> float:
    """A Linen module forward and backward."""
    params = unbox(jax.jit(module.init)(jax.random.key(0), x, *rest)["params"])

    def call(params, x):
        out = module.apply({"params": params}, x, *rest)
        return getattr(out, "x", out)

    return _seconds(measure.with_gradients(call, 2), params, x, x)


def _core(cfg, rows: int, length: int) -> float:
    """Attention behind the projections."""
    query = jnp.ones((rows, length, cfg.num_heads, cfg.head_dim))
    key = jnp.ones((rows, length, cfg.kv_heads, cfg.head_dim))
    attend = functools.partial(chunked_attend, causal=cfg.causal, segments=jnp.ones((rows, length), jnp.int32))
    return _seconds(measure.with_gradients(attend, 3), query, key, key, query)


def _loss(x, table, targets):
    return jnp.mean(cross_entropy(jnp.einsum("btd,vd->btv", x, table), targets))


def _optimizer(cfg, optimizer_cfg) -> float:
    """Clipping, AdamW and the new weights, given the gradients."""
    model = cfg.make()
    params = unbox(jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 2), jnp.int32))["params"])
    optimizer = optimizer_cfg.make(1)

    def update(gradients, state, params):
        updates, state = optimizer.update(gradients, state, params)
        return optax.apply_updates(params, updates), state, optax.tree.norm(params)

    return _seconds(update, params, optimizer.init(params), params)
