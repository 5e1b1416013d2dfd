"""Causal attention over all tokens, and over a window, beside cuDNN: 16 heads of 128 channels in bfloat16."""

import jax.numpy as jnp

from arch.kernels.block_attention import choice
from arch.layers.contract import Context
from arch.mixers import attention
from arch.mixers._attend import attend_tokens
from arch.ops.patterns import block_map, causal, window
from arch.sharding.mesh import device_kind
from benchmarks.gpu.contest import Contest, Operand
from benchmarks.gpu.peers import jax_attention, torch_attention

HEADS, CHANNELS, BLOCK = 16, 128, (128, 128)
SECONDS = 240


def operands(batch: int, length: int) -> dict[str, Operand]:
    """Query, key and value."""
    return dict.fromkeys(("query", "key", "value"), Operand((batch, length, HEADS, CHANNELS)))


def flops(batch: int, pairs: int) -> float:
    """Of two products for each pair that sees each other; the backward pass has five, so 2.5 times as many."""
    return 4.0 * batch * HEADS * CHANNELS * pairs


def by_default(length: int, size: int = 0):
    """What a model's attention does on this device."""
    cfg = attention.Config(num_heads=HEADS, head_dim=CHANNELS, window=size)

    def run(query, key, value):
        places = jnp.broadcast_to(jnp.arange(length), query.shape[:2])
        return attend_tokens(cfg, query, key, value, None, None, Context(positions=places))

    return run


def own(pattern, length: int):
    """The kernels over the blocks of a pattern."""
    blocks = block_map(pattern, length, length, block=BLOCK)

    def run(query, key, value):
        kind = device_kind()
        return choice.attend(query, key, value, blocks, device_kind=kind, implementation="hopper")[0]

    return run


def over_all(length: int = 8192, batch: int = 2) -> Contest:
    """A token sees all before it."""
    sides = {
        "cudnn": lambda: jax_attention.cudnn(causal=True),
        "default": lambda: by_default(length),
        "own": lambda: own(causal, length),
        "tokamax": lambda: jax_attention.tokamax(causal=True),
        "jla": jax_attention.jla,
        "torch fused": lambda: torch_attention.fused(causal=True),
    }
    pairs = length * (length + 1) // 2
    about = dict(batch=batch, length=length, heads=HEADS, channels=CHANNELS)
    return Contest("causal 8k", operands(batch, length), sides, "cudnn", flops(batch, pairs), backward=2.5, about=about)


def over_window(length: int = 32768, size: int = 1024) -> Contest:
    """A token sees the last `size`, itself included."""
    sides = {
        "cudnn": lambda: jax_attention.cudnn(causal=True, window=size),
        "default": lambda: by_default(length, size),
        "own": lambda: own(causal & window(size), length),
        "tokamax": lambda: jax_attention.tokamax(causal=True, window=size),
        "jla": lambda: jax_attention.jla(window=size),
    }
    pairs = length * size - size * (size - 1) // 2
    about = dict(batch=1, length=length, window=size, heads=HEADS, channels=CHANNELS)
    return Contest(
        "window 1024 at 32k", operands(1, length), sides, "cudnn", flops(1, pairs), backward=2.5, about=about
    )


PIECES = {"causal 8k": over_all, "window 1024 at 32k": over_window}
