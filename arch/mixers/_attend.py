"""Attention of heads that are made already: among the tokens of a call, or with those before them in a cache.

What suits the case does it: the dense reference, a chunk of queries at a time, the blocks of a pattern or of a long
row, or a kernel of the device. All add the same bias of places and see the same pairs (`arch.mixers.attention.Config`
says which).
"""

import dataclasses
import math
from typing import Annotated, Any

import jax.numpy as jnp

from arch import config
from arch.kernels import implementations
from arch.kernels.block_attention import choice
from arch.kernels.decode_attention import choice as of_cache
from arch.kernels.devices import is_tpu
from arch.kernels.fused_attention import choice as of_row
from arch.kernels.fused_attention import cudnn, splash
from arch.layers.contract import Context, LogitBias
from arch.layers.flops import Flops, multiply_adds
from arch.ops.attention import attend, attention_mask
from arch.ops.cache import slots, write
from arch.ops.chunked_attention import CHUNK, blocks_of, chunked_attend
from arch.ops.pattern_mask import mask_rows
from arch.ops.patterns import BlockMap, Pattern, block_map
from arch.ops.sparse_attention import sparse_attend
from arch.sharding.mesh import device_kind
from arch.sharding.per_shard import per_shard
from arch.typing import Array, Bool, Float, Int


Block = Annotated[int, config.Range(0, 1024)]
"""Tokens of a block of a pattern, on either side; 0 for what suits the device, 128 on TPU and 64 elsewhere."""
MOST_PAIRS = 1 << 30
"""Of blocks that the host looks at, in all heads whose patterns differ."""


def map_of(pattern: Pattern, queries: int, keys: int, block: int) -> BlockMap:
    """The blocks of a pattern, of so many tokens or of what suits the device.

    Raises:
      ValueError: there are too many for the host to look at.
    """
    block = block or (128 if is_tpu(device_kind()) else 64)
    length, most = max(queries, keys), math.isqrt(MOST_PAIRS // pattern.heads) * block
    if length > most:
        raise ValueError(f"length={length} must be at most {most} with a pattern of {pattern.heads} heads in {block=}")
    return block_map(pattern, queries, keys, block=(block, block))


def of_pairs(seen: int, met: int) -> Flops:
    """Multiply-adds of pairs of tokens, of which as many are met in blocks.

    The backward pass has the logits again; on TPU it meets all blocks twice, by queries and by keys, with 3 and 4
    products for the 2 of the forward pass, where 4 count as those of the gradients.
    """
    return multiply_adds(seen, executed=met, anew=3 * met // 2 if is_tpu(device_kind()) else met // 2)


def attend_tokens(cfg: Any, query, key, value, sinks, bias: LogitBias | None, context: Context) -> Array:
    """[b t n h] attention among the tokens of the call."""
    length, dropout = query.shape[1], 0.0 if context.deterministic else cfg.dropout
    segments, valid = context.segment_ids, context.valid
    if cfg.sparse:
        return _by_blocks(cfg, cfg.map(length), query, key, value, sinks, bias, context)
    kernel = "xla" if dropout or length <= CHUNK else _kernel_of_row(cfg, query, value, sinks, bias, context)
    if kernel in ("cudnn", "splash"):
        return _fused(cfg, kernel, query, key, value, segments)
    if kernel == "blocks":
        blocks = map_of(cfg.sight.whole, length, length, of_row.TILE)
        return _by_blocks(cfg, blocks, query, key, value, sinks, bias, context)
    form = cfg.form(length, dropout)
    if form == "blocks":
        blocks = blocks_of(length, causal=cfg.causal, window=cfg.window)
        return _by_blocks(cfg, blocks, query, key, value, sinks, bias, context)
    if form == "chunks":
        implementations.tell("attention", "chunks")
        sight = dict(causal=cfg.causal, window=cfg.window, segments=segments, valid=valid)
        return chunked_attend(query, key, value, **sight, scale=cfg.scale or None)
    places = jnp.arange(length)[None]
    given = dict(query_segments=segments, key_segments=segments, key_valid=valid)
    mask = attention_mask(places, places, causal=cfg.causal, window=cfg.window, **given)
    return _dense(cfg, query, key, value, sinks, bias, places, places, mask, context)


def attend_cache(cfg: Any, query, key, value, sinks, bias: LogitBias | None, context: Context, cache: dict):
    """(attention [b t n h] to what the cache holds and the tokens of the call, the cache with them)."""
    if cfg.rolling:
        return _attend_rolling(cfg, query, key, value, sinks, bias, context, cache)
    size = cache["key"].shape[2]
    keys = jnp.arange(size)[None]
    places, length = slots(cache["length"], context.real(), size)
    key, value = write(cache["key"], places, key), write(cache["value"], places, value)
    if _by_kernel(cfg, query, key, bias, context):
        seen = jnp.where(places < size, places, -1)
        out = _by_cache(cfg, query, key, value, sinks, seen, window=cfg.window)
        return out, {"key": key, "value": value, "length": length}
    given = {} if cfg.causal else {"key_valid": keys < length[:, None]}
    mask = attention_mask(places, keys, causal=cfg.causal, window=cfg.window, **given)
    if cfg.sparse:
        mask = mask[:, None] & mask_rows(cfg.map(size), places)
    cache = {"key": key, "value": value, "length": length}
    key, value = key.swapaxes(1, 2), value.swapaxes(1, 2)
    return _dense(cfg, query, key, value, sinks, bias, places, keys, mask, context), cache


def _attend_rolling(cfg, query, key, value, sinks, bias, context, cache):
    """As `attend_cache`, of a cache whose slot j holds the last token so far whose place leaves j when divided by them.

    Jiang et al., Mistral 7B, 2023, arXiv 2310.06825, sec. 2 and fig. 2. A single token overwrites what no window shows
    any more, and reads the cache alone; several read what was there before them, and one another.
    """
    size, before, real = cache["key"].shape[2], cache["length"][:, None], context.real()
    place, length = before + jnp.cumsum(real, axis=1) - 1, before + jnp.sum(real, axis=1, keepdims=True)
    slot = jnp.where(real & (place >= length - size), place % size, size)
    new = {name: write(cache[name], slot, heads) for name, heads in (("key", key), ("value", value))}
    alone = query.shape[1] == 1
    if alone and _by_kernel(cfg, query, new["key"], bias, context):  # what the slots hold is the window, in any order
        out = _by_cache(cfg, query, new["key"], new["value"], sinks, jnp.minimum(place, size - 1), window=0)
        return out, new | {"length": length[:, 0]}
    last, held = (length, new) if alone else (before, cache)
    keys = last - 1 - (last - 1 - jnp.arange(size)) % size  # the place of each slot's token; below 0 where it has none
    parts = [[held[name].swapaxes(1, 2)] for name in ("key", "value")]
    if not alone:
        keys = jnp.concatenate([keys, jnp.where(real, place, -1)], axis=1)
        parts = [[*part, heads.astype(part[0].dtype)] for part, heads in zip(parts, (key, value))]
    key, value = (jnp.concatenate(part, axis=1) for part in parts)
    mask = attention_mask(place, keys, causal=True, window=cfg.window, key_valid=keys >= 0)
    out = _dense(cfg, query, key, value, sinks, bias, place, keys, mask, context)
    return out, new | {"length": length[:, 0]}


def _by_kernel(cfg, query, key, bias, context) -> bool:
    """Whether the device has a kernel for attention of these new tokens to a cache."""
    if not cfg.causal or cfg.sparse or bias is not None or (cfg.dropout and not context.deterministic):
        return False
    if query.dtype != key.dtype:
        return False
    (_, t, n, h), (_, k, size, _) = query.shape, key.shape
    return of_cache.choose(device_kind(), query.dtype, (h, h), rows=t * n // k, slots=size) != "xla"


def _by_cache(cfg, query, key, value, sinks, place, *, window):
    """[b t n h] by the device's kernel, on each shard of the rows and of the heads."""
    (b, t, n, h), k = query.shape, key.shape[1]

    def on_shard(query, key, value, place, sinks):
        heads, sinks = query.reshape(*query.shape[:2], -1, h), None if sinks is None else sinks.reshape(-1)
        given = dict(window=window, sinks=sinks, scale=cfg.scale or None, soft_cap=cfg.soft_cap)
        return of_cache.attend(heads, key, value, place, device_kind=device_kind(), **given).reshape(query.shape)

    queries, keys = ("batch", None, "kv_heads", None, None), ("batch", "kv_heads", None, None)
    arrays = query.reshape(b, t, k, n // k, h), key, value, place, None if sinks is None else sinks.reshape(k, n // k)
    axes = (queries, keys, keys, ("batch", None), ("kv_heads", None))
    return per_shard(on_shard, arrays, axes, queries, reduce="head_dim").reshape(query.shape)


def _dense(cfg, query, key, value, sinks, bias, places, keys, mask, context):
    implementations.tell("attention", "dense")
    return attend(
        query,
        key,
        value,
        mask=mask,
        bias=None if bias is None else bias(places, keys),
        sinks=sinks,
        scale=cfg.scale or None,
        soft_cap=cfg.soft_cap,
        dropout=0.0 if context.deterministic else cfg.dropout,
        dropout_key=context.fold(0).key,
    )


def attend_blocks(
    query: Float[Array, "b t n h"],
    key: Float[Array, "b s k h"],
    value: Float[Array, "b s k h"],
    block_map: BlockMap,
    *,
    segments: tuple[Int[Array, "b t"] | None, Int[Array, "b s"] | None] = (None, None),
    valid: Bool[Array, "b s"] | None = None,
    bias: LogitBias | None = None,
    places: tuple[Int[Array, "b t"], Int[Array, "b s"]] | None = None,
    sinks: Float[Array, "n"] | None = None,
    scale: float | None = None,
    soft_cap: float = 0.0,
) -> tuple[Float[Array, "b t n h"], Float[Array, "b n t"]]:
    """(result, logsumexp) by the kernels of the device; those of no device take a bias that is not linear, or places.

    Arguments as in `arch.ops.sparse_attention.sparse_attend`; `segments` are those of the queries and of the keys.
    """
    given = dict(query_segments=segments[0], key_segments=segments[1], valid=valid)
    given |= dict(sinks=sinks, scale=scale, soft_cap=soft_cap)
    if bias is not None and (places is not None or not bias.linear):
        given |= dict(bias=bias.function, bias_operands=bias.operands, places=places)
        implementations.tell("attention over blocks", "xla")
        return sparse_attend(query, key, value, block_map, **given)
    slopes = None if bias is None else bias.operands
    return choice.attend(query, key, value, block_map, device_kind=device_kind(), slopes=slopes, **given)


def _kernel_of_row(cfg, query, value, sinks, bias, context) -> of_row.Implementation:
    """What computes attention among the tokens of a row on this device, 'xla' where no kernel does."""
    of_bias = None if bias is None else "slopes" if bias.linear else "bias"
    given = {"segments": context.segment_ids, "valid": context.valid, of_bias: bias, "sinks": sinks}
    beside = {name for name, array in given.items() if array is not None} | ({"soft cap"} if cfg.soft_cap else set())
    sight = dict(causal=cfg.causal, window=cfg.window, beside=beside)
    return of_row.choose(device_kind(), query.dtype, (query.shape[-1], value.shape[-1]), **sight)


def _fused(cfg, kernel, query, key, value, segments):
    """[b t n h] by this kernel, on each shard of the rows and of the heads."""
    (b, t, n, h), k = query.shape, key.shape[2]
    implementations.tell("attention", kernel)

    def on_shard(query, key, value, segments):
        arrays = query.reshape(*query.shape[:2], -1, h), key, value
        given = dict(window=cfg.window, scale=cfg.scale or None)
        if kernel == "splash":
            out = splash.attend(*arrays, **given, segments=segments, soft_cap=cfg.soft_cap)
        else:
            out = cudnn.attend(*arrays, **given, causal=cfg.causal)
        return out.reshape(query.shape)

    grouped, single = ("batch", None, "kv_heads", None, None), ("batch", None, "kv_heads", None)
    arrays = query.reshape(b, t, k, n // k, h), key, value, segments
    axes = grouped, single, single, ("batch", None)
    return per_shard(on_shard, arrays, axes, grouped, reduce="head_dim").reshape(query.shape)


def _by_blocks(cfg, blocks, query, key, value, sinks, bias, context):
    """[b t n h] by these blocks, on each shard of the rows and, where all heads see alike, of the heads."""
    (b, t, n, h), k = query.shape, key.shape[2]
    linear = bias is None or bias.linear
    split = "kv_heads" if blocks.heads == 1 and linear else None
    by_group = lambda array: None if array is None else array.reshape(k, n // k)
    flat = lambda array: None if array is None else array.reshape(-1)

    def on_shard(query, key, value, sinks, operands, segments, valid):
        given = dict(segments=(segments, segments), valid=valid, sinks=flat(sinks))
        given |= dict(scale=cfg.scale or None, soft_cap=cfg.soft_cap)
        if bias is not None:
            given["bias"] = dataclasses.replace(bias, operands=flat(operands) if linear else operands)
        heads = query.reshape(*query.shape[:2], -1, h)
        return attend_blocks(heads, key, value, blocks, **given)[0].reshape(query.shape)

    operands = None if bias is None else bias.operands
    operands, of_bias = (by_group(operands), (split, None)) if linear else (operands, (None,) * operands.ndim)
    grouped, single, row = ("batch", None, split, None, None), ("batch", None, split, None), ("batch", None)
    arrays = (query.reshape(b, t, k, n // k, h), key, value, by_group(sinks), operands)
    axes = (grouped, single, single, (split, None), of_bias, row, row)
    out = per_shard(on_shard, (*arrays, context.segment_ids, context.valid), axes, grouped, reduce="head_dim")
    return out.reshape(query.shape)
