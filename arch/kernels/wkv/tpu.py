"""WKV on TPU: a grid over examples, blocks of channels and chunks, with the state in vector memory.

The equations are in `average`, a token's steps in `steps`. Channels fill whole registers, rows of LANES of them: a
token is a block of rows, and each step a few operations on all of it. In the backward pass a chunk goes forward once
more, to recompute the state that enters each of its tokens, and then in reverse.
"""

import jax
import jax.numpy as jnp
from jax import lax

from arch.kernels import compat
from arch.kernels.wkv import steps, tpu_grid
from arch.kernels.wkv.tpu_grid import Grid, chunk, tiles
from arch.ops.wkv import State
from arch.typing import Array

__all__ = ["backward", "chunk", "forward", "misfit", "tiles"]

DTYPES = (jnp.dtype(jnp.float32), jnp.dtype(jnp.bfloat16))


def misfit(dtype) -> str:
    """Why the kernels do not take keys and values of this dtype; '' if they do."""
    return "" if dtype in DTYPES else f"key.dtype={dtype} must be one of float32, bfloat16"


def forward(launch, tokens, state: State):
    """(y like value, last state, the states that enter each chunk, each [b l rows LANES])."""
    grid = Grid(tokens)
    float32 = lambda *shape: jax.ShapeDtypeStruct(shape, jnp.float32)
    b, *tile = state.numerator.shape
    operands = grid.operands(tokens) | {name: (array, grid.state()) for name, array in state._asdict().items()}
    results = {"y": (jax.ShapeDtypeStruct(tokens.value.shape, tokens.value.dtype), grid.tokens())}
    results |= {f"last_{name}": (float32(b, *tile), grid.state()) for name in State._fields}
    results |= {f"{name}_entries": (float32(b, grid.chunks, *tile), grid.entry()) for name in State._fields}
    y, *states = grid.run("wkv", _forward, operands, results, {}, launch)
    return y, State(*states[:3]), State(*states[3:])


def _forward(size, refs):
    pl, _ = compat.tpu()

    @pl.when(pl.program_id(2) == 0)
    def _():
        for name in State._fields:
            refs[f"last_{name}"][...] = refs[name][...]

    for name in State._fields:
        refs[f"{name}_entries"][0] = refs[f"last_{name}"][...]
    decay, bonus = refs["decay"][...], refs["bonus"][...]

    def step(t, state):
        token = _token(refs, t)
        refs["y"][0, t] = steps.read(state, token, bonus)[0].astype(refs["y"].dtype)
        return steps.forth(state, token, decay)

    last = _over(size, step, State(*(refs[f"last_{name}"][0] for name in State._fields)))
    for name, array in last._asdict().items():
        refs[f"last_{name}"][0] = array


def backward(launch, tokens, entries: State, dy: Array, d_last: State, exponent: Array):
    """(gradients of the tokens, and alpha, beta and their exponent before the first), `exponent` behind the last."""
    grid = Grid(tokens, reverse=True)
    float32 = lambda shape: jax.ShapeDtypeStruct(shape, jnp.float32)
    back = {"alpha": d_last.numerator, "beta": d_last.denominator, "exponent": exponent}
    operands = grid.operands(tokens) | {"dy": (dy, grid.tokens())}
    operands |= {f"{name}_entries": (array, grid.entry()) for name, array in entries._asdict().items()}
    operands |= {f"last_{name}": (array, grid.state()) for name, array in back.items()}
    like = jax.ShapeDtypeStruct(tokens.key.shape, tokens.key.dtype)
    results = {name: (like, grid.tokens()) for name in ("d_key", "d_value")}
    results |= {name: (float32(exponent.shape), grid.state()) for name in ("d_decay", "d_bonus", *back)}
    tile = (grid.size, *grid.tile)
    scratch = {f"{name}_states": tile for name in State._fields}
    d_key, d_value, *of_rows, alpha, beta, exponent = grid.run(
        "wkv_backward", _backward, operands, results, scratch, launch
    )
    d_decay, d_bonus = (jnp.sum(array, axis=0) for array in of_rows)
    return type(tokens)(d_key, d_value, d_decay, d_bonus, None), alpha, beta, exponent


def _backward(size, refs):
    pl, _ = compat.tpu()
    carried = ("alpha", "beta", "exponent")

    @pl.when(pl.program_id(2) == 0)
    def _():
        for name in carried:
            refs[name][...] = refs[f"last_{name}"][...]
        for name in ("d_decay", "d_bonus"):
            refs[name][...] = jnp.zeros_like(refs[name])

    decay, bonus = refs["decay"][...], refs["bonus"][...]

    def forth(t, state):
        for name, array in state._asdict().items():
            refs[f"{name}_states"][t] = array
        return steps.forth(state, _token(refs, t), decay)

    def back(i, carry):
        t = size - 1 - i
        state = State(*(refs[f"{name}_states"][t] for name in State._fields))
        dy = refs["dy"][0, t].astype(jnp.float32)
        carry, *found = steps.back(carry, state, _token(refs, t), dy, decay, bonus)
        for name, array in zip(("d_key", "d_value"), found):
            refs[name][0, t] = array.astype(refs[name].dtype)
        return carry

    _over(size, forth, State(*(refs[f"{name}_entries"][0, 0] for name in State._fields)))
    names = (*carried, "d_decay", "d_bonus")
    for name, array in zip(names, _over(size, back, steps.Gradient(*(refs[name][0] for name in names)))):
        refs[name][0] = array


def _over(size, step, carry):
    """`carry = step(t, carry)` for t = 0 ... size - 1."""

    def group(i, carry):
        for j in range(tpu_grid.GROUP):
            carry = step(i * tpu_grid.GROUP + j, carry)
        return carry

    return lax.fori_loop(0, size // tpu_grid.GROUP, group, carry)


def _token(refs, t) -> steps.Token:
    return steps.Token.of(*(refs[name][0, t].astype(jnp.float32) for name in ("key", "value")), refs["flags"][0, 0, t])
