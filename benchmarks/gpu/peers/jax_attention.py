"""Attention of arrays [b t n h] by cuDNN, tokamax and jax-linear-attention."""

from collections.abc import Callable

import jax

from benchmarks.gpu.peers import need


def cudnn(*, causal: bool, window: int = 0) -> Callable:
    """By cuDNN, called by JAX; a window is of the last so many tokens, itself included."""
    size = (window - 1, 0) if window else None
    given = dict(is_causal=causal, local_window_size=size, implementation="cudnn")
    return lambda query, key, value: jax.nn.dot_product_attention(query, key, value, **given)


def tokamax(*, causal: bool, window: int = 0) -> Callable:
    """By tokamax's Mosaic kernels as its heuristics launch them: not tuned for the device."""
    package = need("tokamax", "tokamax")
    size = (window - 1, 0) if window else None
    given = dict(is_causal=causal, local_window_size=size, implementation="mosaic")
    return lambda query, key, value: package.dot_product_attention(query, key, value, **given)


def jla(*, window: int = 0) -> Callable:
    """By jax-linear-attention's kernels, which are causal."""
    flash = need("jax-linear-attention", "jla.ops.mosaic_gpu.attention").flash_attention
    return lambda query, key, value: flash(query, key, value, sliding_window=window or None)
