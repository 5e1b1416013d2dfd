"""WKV on Hopper GPUs: a thread has a channel, its state in registers, and goes over a row's tokens chunk by chunk.

The equations are in `average`, a token's steps in `steps`, the way of chunks in `arch.kernels.lanes`. In the backward
pass a chunk goes forward once more, to recompute the state that enters each of its tokens, and then in reverse.
"""

import jax
import jax.numpy as jnp
from jax import lax

from arch.kernels import compat, lanes
from arch.kernels.lanes import THREADS, Launch, start
from arch.kernels.wkv import steps
from arch.ops.wkv import State
from arch.typing import Array

DTYPES = (jnp.dtype(jnp.float32), jnp.dtype(jnp.bfloat16))
CHANNELS = THREADS
"""Of a thread block."""
MOST_CHUNK = 16
GROUP = 4
"""Tokens whose steps are unrolled."""
TOKENS = "key", "value", "flags"
GRADIENT = "alpha", "beta", "exponent"


def misfit(dtype) -> str:
    """Why the kernels do not take keys and values of this dtype; '' if they do."""
    return "" if dtype in DTYPES else f"key.dtype={dtype} must be one of float32, bfloat16"


def chunk(length: int) -> int:
    """Tokens of a chunk, of rows of so many; MOST_CHUNK, or all of a shorter row."""
    return min(MOST_CHUNK, length + -length % GROUP)


def tiles(array: Array, dtype) -> Array:
    """[... f] with zeros behind, for whole thread blocks."""
    del dtype
    return jnp.pad(array, [(0, 0)] * (array.ndim - 1) + [(0, -array.shape[-1] % CHANNELS)])


def forward(launch, tokens, state: State):
    """(y like value, last state, the states that enter each chunk, each [b l f])."""
    launch, (b, t, f), dtype = launch or Launch(), tokens.key.shape, tokens.key.dtype
    size, float32 = chunk(t), lambda *shape: jax.ShapeDtypeStruct(shape, jnp.float32)
    operands = tokens._asdict() | {f"first_{name}": array for name, array in state._asdict().items()}
    results = {"y": jax.ShapeDtypeStruct((b, t, f), dtype)}
    results |= {f"last_{name}": float32(b, f) for name in State._fields}
    results |= {f"entry_{name}": float32(b, t // size, f) for name in State._fields}

    def kernel(refs):
        block = _Block(refs, size)
        decay, bonus = block.read("decay"), block.read("bonus")

        def over_one(chunk, slot, state):
            for name, array in state._asdict().items():
                block.write(f"entry_{name}", array, block.batch, chunk)

            def step(t, state):
                token = block.token(slot, t)
                refs["y_tile"][slot, t] = steps.read(state, token, bonus)[0].astype(dtype)
                return steps.forth(state, token, decay)

            return _over(size, step, state)

        state = State(*(block.read(f"first_{name}", block.batch) for name in State._fields))
        walk = block.walk(t // size, launch, TOKENS, ("y",))
        for name, array in walk.over(over_one, state)._asdict().items():
            block.write(f"last_{name}", array, block.batch)

    scratch = launch.tiles(**_tiles(size, dtype, "key", "value", "y"), flags_tile=((size,), jnp.int32))
    found = start("wkv", kernel, results, operands, scratch, grid=(f // CHANNELS, b), copies=len(TOKENS), launch=launch)
    states = (State(*(found[f"{which}_{name}"] for name in State._fields)) for which in ("last", "entry"))
    return found["y"], *states


def backward(launch, tokens, entries: State, dy: Array, d_last: State, exponent: Array):
    """(gradients of the tokens, and alpha, beta and their exponent before the first), `exponent` behind the last."""
    launch, (b, t, f), dtype = launch or Launch(), tokens.key.shape, tokens.key.dtype
    size, float32 = chunk(t), lambda *shape: jax.ShapeDtypeStruct(shape, jnp.float32)
    operands = tokens._asdict() | {"dy": dy, "last_exponent": exponent}
    operands |= {"last_alpha": d_last.numerator, "last_beta": d_last.denominator}
    operands |= {f"entry_{name}": array for name, array in entries._asdict().items()}
    results = {name: jax.ShapeDtypeStruct((b, t, f), dtype) for name in ("d_key", "d_value")}
    results |= {f"before_{name}": float32(b, f) for name in steps.Gradient._fields}
    of_entry = [f"entry_{name}" for name in State._fields]

    def kernel(refs):
        block = _Block(refs, size)
        decay, bonus = block.read("decay"), block.read("bonus")

        def over_one(chunk, slot, carry):
            def forth(t, state):
                for name, array in state._asdict().items():
                    refs[f"{name}_states"][t] = array
                return steps.forth(state, block.token(slot, t), decay)

            def back(i, carry):
                t = size - 1 - i
                state = State(*(refs[f"{name}_states"][t] for name in State._fields))
                dy = refs["dy_tile"][slot, t].astype(jnp.float32)
                carry, *found = steps.back(carry, state, block.token(slot, t), dy, decay, bonus)
                for name, array in zip(("d_key", "d_value"), found):
                    refs[f"{name}_tile"][slot, t] = array.astype(dtype)
                return carry

            _over(size, forth, State(*(refs[f"{name}_tile"][slot] for name in of_entry)))
            return _over(size, back, carry)

        none = jnp.zeros((CHANNELS,), jnp.float32)
        carry = steps.Gradient(*(block.read(f"last_{name}", block.batch) for name in GRADIENT), none, none)
        walk = block.walk(t // size, launch, (*TOKENS, "dy", *of_entry), ("d_key", "d_value"))
        for name, array in walk.over(over_one, carry, reverse=True)._asdict().items():
            block.write(f"before_{name}", array, block.batch)

    _, plgpu = compat.modules()
    scratch = launch.tiles(
        **_tiles(size, dtype, "key", "value", "dy", "d_key", "d_value"), flags_tile=((size,), jnp.int32)
    )
    scratch |= launch.tiles(**{f"{name}_tile": ((CHANNELS,), jnp.float32) for name in of_entry})
    scratch |= {f"{name}_states": plgpu.SMEM((size, CHANNELS), jnp.float32) for name in State._fields}
    found = start("wkv_backward", kernel, results, operands, scratch, grid=(f // CHANNELS, b), copies=7, launch=launch)
    before = steps.Gradient(*(found[f"before_{name}"] for name in steps.Gradient._fields))
    of_rows = (jnp.sum(array, axis=0) for array in (before.decay, before.bonus))
    return type(tokens)(found["d_key"], found["d_value"], *of_rows, None), before.alpha, before.beta, before.exponent


class _Block(lanes.Block):
    """A channel for each thread."""

    def __init__(self, refs, size):
        super().__init__(refs, size)
        pl, _ = compat.modules()
        self.channels = pl.ds(pl.multiple_of(self.index * CHANNELS, CHANNELS), CHANNELS)

    def part(self, name, chunk, rows):
        if name.startswith("entry"):
            return self.refs[name].at[self.batch, chunk, self.channels]
        where = (self.batch, rows) if name == "flags" else (self.batch, rows, self.channels)
        return self.refs[name].at[where]

    def read(self, name, *index) -> Array:
        """A number for each thread, from global memory."""
        _, plgpu = compat.modules()
        return plgpu.load(self.refs[name].at[(*index, self.channels)], optimized=False)

    def write(self, name, array, *index) -> None:
        """Writes it there."""
        self.refs[name][(*index, self.channels)] = array

    def token(self, slot, t) -> steps.Token:
        """Of the chunk in this slot."""
        key, value = (self.refs[f"{name}_tile"][slot, t].astype(jnp.float32) for name in ("key", "value"))
        return steps.Token.of(key, value, self.refs["flags_tile"][slot, t])


def _tiles(size, dtype, *names) -> dict:
    """Shapes and dtypes of what a chunk brings or gives."""
    return {f"{name}_tile": ((size, CHANNELS), dtype) for name in names}


def _over(size, step, carry):
    """`carry = step(t, carry)` for t = 0 ... size - 1."""

    def group(i, carry):
        for j in range(GROUP):
            carry = step(i * GROUP + j, carry)
        return carry

    return lax.fori_loop(0, size // GROUP, group, carry)
