"""Attention by Splash, JAX's own kernels for TPUs: causal, all of it or a window, forward and backward.

It visits only the blocks that such a sight names, and takes packed documents and a soft cap; not keys that nobody sees,
sinks or a bias. Heads are of whole lanes: 128 channels or a multiple.
"""

import functools
from collections.abc import Set

import jax
import jax.numpy as jnp

from arch.kernels import cost
from arch.kernels.devices import is_tpu
from arch.ops import patterns
from arch.ops.patterns import block_map, causal
from arch.typing import Array, Float, Int

LANES = 128
LARGEST = 512
"""Queries and keys of a block, at most."""
TAKES = frozenset(("segments", "soft cap"))
"""What it takes beside query, key and value."""
NOBODY = -1
"""The segment of what fills a row up, which sees itself alone."""


def misfit(
    device_kind: str, dtype, channels: tuple[int, int], *, causal: bool, window: int, beside: Set[str] = frozenset()
) -> str:
    """Why it does not compute this; '' if it does. Arguments as in `choice.choose`."""
    if not is_tpu(device_kind):
        return f"device_kind={device_kind!r} must be a TPU,"
    if jnp.dtype(dtype) not in (jnp.bfloat16, jnp.float32):
        return f"dtype={jnp.dtype(dtype).name} must be bfloat16 or float32"
    if channels[0] != channels[1] or channels[0] % LANES:
        return f"channels={channels} must be the same and a multiple of {LANES}"
    if not causal:
        return f"causal={causal} must be True"
    return f"{', '.join(sorted(beside - TAKES))} must not be given" if beside - TAKES else ""


def attend(
    query: Float[Array, "b t n h"],
    key: Float[Array, "b t k h"],
    value: Float[Array, "b t k h"],
    *,
    window: int = 0,
    segments: Int[Array, "b t"] | None = None,
    scale: float | None = None,
    soft_cap: float = 0.0,
    interpret: bool = False,
) -> Float[Array, "b t n h"]:
    """The result in query's dtype, of keys whose place is not after the query's own.

    Args:
      query: [b t n h].
      key: [b t k h]; head i of the query reads key-value head i // (n / k).
      value: [b t k h].
      window: a query sees only the last so many, itself included; 0 for all.
      segments: [b t] packed documents; a query sees only its own.
      scale: factor of the logits; None for 1 / sqrt(h).
      soft_cap: bound of the logits; 0 for none.
      interpret: on any device, slowly.
    """
    _, t, n, h = query.shape
    factor = h**-0.5 if scale is None else scale
    size = min(LARGEST, -(-t // LANES) * LANES)
    more = -t % size
    whole = lambda array: jnp.pad(array, ((0, 0), (0, more), (0, 0), (0, 0))).swapaxes(1, 2)
    arrays = [whole(query * jnp.asarray(factor, query.dtype)), whole(key), whole(value)]
    if segments is not None:  # without them, what fills a row up is behind all that is real and seen by none of it
        arrays.append(jnp.pad(segments.astype(jnp.int32), ((0, 0), (0, more)), constant_values=NOBODY))
    kernels, run = _splash()[0], _kernel(t + more, size, n, window, soft_cap, interpret)
    one = lambda query, key, value, *ids: _run(run, query, key, value, kernels.SegmentIds(*ids, *ids) if ids else None)
    with cost.told(_costs(arrays[0], arrays[1], size, window)):
        return jax.vmap(one)(*arrays).swapaxes(1, 2)[:, :t]


def _run(kernel, *operands):
    """The call of a kernel but for its own `jit`: where layers share that, XLA forgets in which scope it was called."""
    kernels, infos = _splash()[0], (kernel.fwd_mask_info, kernel.dq_mask_info, kernel.dkv_mask_info)
    return kernels._splash_attention.__wrapped__(*infos, *operands, **kernel.kwargs)


def _costs(query, key, size: int, window: int) -> dict[str, tuple[int, int, int]]:
    """Of its three kernels: products of the pairs in blocks that are visited, and tiles read for each of these."""
    (b, n, t, h), width = query.shape, query.dtype.itemsize
    pattern = causal & patterns.window(window) if window else causal
    pairs = b * n * block_map(pattern, t, t, block=(size, size)).visited_pairs
    tiles, rows, groups = 2 * pairs // size * h * width, query.size * width, key.size * width
    products = {"fwd": 2, "dq": 3, "dkv": 4}
    others = {"fwd": 2 * rows, "dq": 3 * rows, "dkv": 4 * groups}
    return {f"_{kind}": (2 * h * pairs * count, pairs, tiles + others[kind]) for kind, count in products.items()}


def _splash():
    """(its kernels, masks, and what it makes of masks), imported when they are needed."""
    from jax.experimental.pallas.ops.tpu import splash_attention as package

    return package.splash_attention_kernel, package.splash_attention_mask, package.splash_attention_mask_info


@functools.lru_cache(maxsize=16)
def _kernel(length: int, size: int, heads: int, window: int, soft_cap: float, interpret: bool):
    """Of [n t h], and of key-value heads that may be fewer; its tables stay NumPy's, so that they are of no trace."""
    kernels, masks, infos = _splash()
    mask = masks.LocalMask((length,) * 2, (window - 1, 0), 0) if window else masks.CausalMask((length,) * 2)
    masks, blocks, shards = masks.MultiHeadMask([mask] * heads), (size, size), dict(head_shards=1, q_seq_shards=1)
    by_rows, function = infos.process_mask(masks, blocks, **shards)
    by_keys, _ = infos.process_mask_dkv(masks, blocks, **shards)
    sides = ("q", "kv", "kv_compute", "q_dkv", "kv_dkv", "kv_dkv_compute", "q_dq", "kv_dq")
    return kernels.SplashAttentionKernel(
        by_rows,
        by_rows,
        by_keys,
        block_sizes=kernels.BlockSizes(**{f"block_{side}": size for side in sides}),
        is_mqa=False,
        save_residuals=False,
        mask_value=kernels.DEFAULT_MASK_VALUE,
        attn_logits_soft_cap=soft_cap or None,
        residual_checkpoint_name=None,
        mask_function=function,
        interpret=interpret,
    )
