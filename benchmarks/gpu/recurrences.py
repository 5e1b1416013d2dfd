"""The recurrences of linear-time mixers beside mamba-ssm, fla and jax-linear-attention, in bfloat16.

'own' is what suits the device; 'xla' the form for any device. The rows say which implementation 'own' was.
"""

import functools

import jax
import jax.numpy as jnp

from arch.kernels.linear_attention import choice as attention
from arch.kernels.selective_scan import choice as scan
from arch.kernels.wkv import choice as average
from arch.ops.linear_attention.kernelised import causal_kernel_attention
from arch.sharding.mesh import device_kind
from benchmarks.gpu.contest import Contest, Operand
from benchmarks.gpu.peers import recurrences as peers

SECONDS = 240
KIND = "NVIDIA H200"


def _positive(low: float, high: float):
    """Numbers between these, evenly in their logarithms."""
    return lambda key, shape: jnp.exp(jax.random.uniform(key, shape, minval=jnp.log(low), maxval=jnp.log(high)))


def _negative(low: float, high: float):
    return lambda key, shape: -_positive(low, high)(key, shape)


def _first(function, implementation: str):
    """The first result of one of our functions, on the device that will run it."""
    return lambda *arrays: function(*arrays, device_kind=device_kind(), implementation=implementation)[0]


def mamba(batch: int = 8, length: int = 4096, channels: int = 2048, states: int = 16) -> Contest:
    """Mamba-1's scan, steps and rates spread as initial ones are."""
    x, of_states = Operand((batch, length, channels)), Operand((batch, length, states))
    operands = {
        "x": x,
        "delta": Operand(x.shape, draw=_positive(1e-3, 1e-1)),
        "A": Operand((channels, states), "float32", _negative(1, states)),
        "B": of_states,
        "C": of_states,
        "D": Operand((channels,), "float32"),
    }
    sides = {
        "own": lambda: _first(scan.selective_scan, ""),
        "xla": lambda: _first(scan.selective_scan, "xla"),
        "mamba-ssm": peers.mamba_cuda,
        "jla": peers.jla_mamba,
    }
    chosen = scan.choose(KIND, jnp.bfloat16, states, length=length)
    about = dict(batch=batch, length=length, channels=channels, states=states, own=chosen)
    return Contest("mamba", operands, sides, "xla", about=about)


def ssd(batch: int = 8, length: int = 4096, heads: int = 64, channels: int = 64, states: int = 128) -> Contest:
    """Mamba-2's scan, one group, as in its 1.3B model."""
    of_states = Operand((batch, length, 1, states))
    operands = {
        "x": Operand((batch, length, heads, channels)),
        "delta": Operand((batch, length, heads), "float32", _positive(1e-3, 1e-1)),
        "A": Operand((heads,), "float32", _negative(1, 16)),
        "B": of_states,
        "C": of_states,
        "D": Operand((heads,), "float32"),
    }
    sides = {
        "own": lambda: _first(attention.ssd, ""),
        "xla": lambda: _first(attention.ssd, "xla"),
        "mamba-ssm": peers.mamba_triton,
        "jla": peers.jla_ssd,
    }
    chosen = attention.choose(KIND, jnp.bfloat16, (states, channels), length=length)
    about = dict(batch=batch, length=length, heads=heads, channels=channels, states=states, own=chosen)
    return Contest("ssd", operands, sides, "xla", about=about)


def performer(batch: int = 4, length: int = 8192, heads: int = 16, features: int = 256, channels: int = 64) -> Contest:
    """Causal attention of positive random features: each result divided by its sum of weights."""
    feature = Operand((batch, length, heads, features), draw=_positive(1e-2, 1.0))
    operands = {"query": feature, "key": feature, "value": Operand((batch, length, heads, channels))}

    def ours(implementation):
        def run(query, key, value):
            how = dict(device_kind=device_kind(), implementation=implementation)
            recurrence = functools.partial(attention.linear_attention, **how)
            return causal_kernel_attention(query, key, value, recurrence=recurrence)[0]

        return run

    sides = {"own": lambda: ours(""), "xla": lambda: ours("xla"), "fla": peers.fla_linear_attention}
    chosen = attention.choose(KIND, jnp.bfloat16, (features, channels + 1), length=length)
    about = dict(batch=batch, length=length, heads=heads, features=features, channels=channels, own=chosen)
    return Contest("performer", operands, sides, "xla", about=about)


def wkv(batch: int = 8, length: int = 4096, channels: int = 2048) -> Contest:
    """RWKV-4's; it must read keys and values and write results, and backward these and a gradient, and write two."""
    x = Operand((batch, length, channels))
    vector = Operand((channels,), "float32", _positive(1e-3, 1.0))
    operands = {"key": x, "value": x, "decay": vector, "bonus": Operand((channels,), "float32")}
    sides = {
        "own": lambda: _first(average.wkv, ""),
        "xla": lambda: _first(average.wkv, "xla"),
        "fla": peers.fla_wkv,
    }
    array = 2.0 * batch * length * channels
    moved = {"forward": 3 * array, "forward+backward": 9 * array}
    chosen = average.choose(KIND, jnp.bfloat16, length=length)
    about = dict(batch=batch, length=length, channels=channels, own=chosen)
    return Contest("wkv", operands, sides, "xla", bytes=moved, about=about)


def copy(size: int = 2**29) -> Contest:
    """What the device's memory gives: an array read and written."""
    operands = {"x": Operand((size,))}
    return Contest("copy", operands, {"xla": lambda: jnp.negative}, bytes={"forward": 4.0 * size}, passes=("forward",))


PIECES = {"copy": copy, "mamba": mamba, "ssd": ssd, "performer": performer, "wkv": wkv}
