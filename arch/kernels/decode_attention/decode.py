"""Attention of a few new tokens to what a cache holds, by the kernels of one kind of device.

    O_p, L_p = softmax(S_p) V_p, log2 sum 2^(S_p)   of each part p of a row's filled blocks of keys, in one kernel
    out = sum_p 2^(L_p - L) O_p,   L = log2 (sum_p 2^(L_p) + 2^sink)

Dao, Haziza, Massa, Sizov, Flash-Decoding for long-context inference, 2023 (pytorch.org/blog/flash-decoding): with one
query a row, the keys are what there is to share out. The queries that read a key-value head, those of its group and of
all new tokens, are the rows of one tile, so that a key is read once. Blocks behind a row's last key, and before its
first window, are not read. There is no backward pass. The reference is `arch.ops.cache_attention`.
"""

import dataclasses
from typing import Any, Literal

import jax.numpy as jnp

from arch.kernels.block_attention.rule import LEAST, LOG2E, MASKED
from arch.kernels.decode_attention import hopper, tpu
from arch.typing import Array, Float, Int

KERNELS = {"tpu": tpu, "hopper": hopper}
Kernels = Literal["tpu", "hopper"]


@dataclasses.dataclass(frozen=True)
class Rule:
    """The fixed numbers.

    Attributes:
      slots: of the cache.
      block: keys of a block.
      window: see `arch.ops.cache_attention`.
      scale: factor of the products.
      soft_cap: bound of the logits; 0 for none.
      launch: how the kernel is started.
    """

    slots: int
    block: int
    window: int
    scale: float
    soft_cap: float
    launch: Any

    def logits(self, products: Array, place: Array, key: Array, least: Array | int = 0) -> Array:
        """In base 2, of products [r block], the rows' places, the keys' slots, and the first slot that counts."""
        if self.soft_cap:
            logits = jnp.tanh(products * (self.scale / self.soft_cap)) * (self.soft_cap * LOG2E)
        else:
            logits = products * (self.scale * LOG2E)
        seen = (key <= place) & (key >= least)
        seen = seen & (key > place - self.window) if self.window else seen
        return jnp.where(seen, logits, MASKED)

    def span(self, places: Int[Array, "b r"]) -> tuple[Int[Array, "b"], Int[Array, "b"]]:
        """The first block of keys that any query of a row sees, and the one behind the last."""
        end = (jnp.max(places, axis=1) + self.block) // self.block
        if not self.window:
            return jnp.zeros_like(end), end
        oldest = jnp.min(jnp.where(places < 0, self.slots, places), axis=1)
        return jnp.minimum(jnp.maximum(oldest - self.window + 1, 0) // self.block, end), end


def misfit(kernels: str, dtype, channels: tuple[int, int], rows: int, slots: int) -> str:
    """Why the kernels do not take such operands; '' if they do.

    Args:
      kernels: their name.
      dtype: of query, key and value.
      channels: of keys, and of values.
      rows: queries of a key-value head, t n / k.
      slots: of the cache.
    """
    return KERNELS[kernels].misfit(jnp.dtype(dtype), channels, rows, slots)


def attend(
    query: Float[Array, "b t n h"],
    key: Float[Array, "b k s h"],
    value: Float[Array, "b k s v"],
    place: Int[Array, "b t"],
    *,
    kernels: Kernels,
    window: int = 0,
    sinks: Float[Array, "n"] | None = None,
    scale: float | None = None,
    soft_cap: float = 0.0,
    launch: Any = None,
) -> Float[Array, "b t n v"]:
    """The result in query's dtype; zeros where a query sees nothing.

    Arguments as in `arch.ops.cache_attention.cache_attend`, and

    Args:
      kernels: of which kind of device.
      launch: how the kernel is started, of its own kind; None as usual.

    Raises:
      ValueError: n is not a multiple of k, dtypes differ, or the kernels do not take these operands.
    """
    (b, t, n, h), (_, k, s, v), module = query.shape, value.shape, KERNELS[kernels]
    if n % k:
        raise ValueError(f"num_heads={n} must be a multiple of num_kv_heads={k}")
    if not query.dtype == key.dtype == value.dtype:
        dtypes = f"query.dtype={query.dtype}, key.dtype={key.dtype} and value.dtype={value.dtype}"
        raise ValueError(f"{dtypes} must be the same")
    group = n // k
    wrong = misfit(kernels, query.dtype, (h, v), t * group, s)
    if wrong:
        raise ValueError(f"{wrong} for the kernels of kernels={kernels!r}")
    rule = Rule(s, module.block(s), window, h**-0.5 if scale is None else scale, soft_cap, launch)
    rows = ((0, 0), (0, -t * group % module.ROWS))
    queries = query.reshape(b, t, k, group, h).swapaxes(1, 2).reshape(b, k, t * group, h)
    queries = jnp.pad(queries, (rows[0], *rows, (0, 0)))
    places = jnp.pad(jnp.repeat(place.astype(jnp.int32), group, axis=1), rows, constant_values=-1)
    out, logsumexp = module.forward(rule, queries, key, value, places, *rule.span(places))
    if sinks is not None:
        sinks = jnp.tile(sinks.reshape(k, group), t) * LOG2E
        sinks = jnp.pad(sinks, rows)[:, None]
    out = _merged(out, logsumexp, sinks)[:, :, : t * group].reshape(b, k, t, group, v)
    return out.swapaxes(1, 2).reshape(b, t, n, v).astype(query.dtype)


def _merged(out: Float[Array, "b k p r v"], logsumexp: Float[Array, "b k p r"], sinks: Float[Array, "k 1 r"] | None):
    """[b k r v] of parts whose logsumexp, in base 2, is LEAST where they see nothing."""
    top = jnp.max(logsumexp, axis=2, keepdims=True)
    top = top if sinks is None else jnp.maximum(top, sinks)
    shares = jnp.where(logsumexp > LEAST, jnp.exp2(logsumexp - top), 0.0)
    total = jnp.sum(shares, axis=2, keepdims=True)
    total = total if sinks is None else total + jnp.exp2(sinks - top)
    weights = shares / jnp.where(total > 0, total, 1.0)
    return jnp.sum(weights[..., None] * out, axis=2)
