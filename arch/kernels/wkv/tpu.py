"""WKV on TPU: a grid over examples, blocks of channels and chunks, with the state in vector memory.

The equations are in `average`. Channels fill whole registers, rows of LANES of them: a token is a block of rows, and
each step a few operations on all of it. In the backward pass a chunk goes forward once more, to recompute the state
that enters each of its tokens, and then in reverse.
"""

import jax
import jax.numpy as jnp
from jax import lax

from arch.kernels import compat
from arch.kernels.wkv import tpu_grid
from arch.kernels.wkv.tpu_grid import Grid, chunk, tiles
from arch.ops.wkv import NEVER, State
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
        refs["y"][0, t] = _read(state, *token, bonus)[0].astype(refs["y"].dtype)
        return _next(state, *token, decay)

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
        return _next(state, *_token(refs, t), decay)

    def back(i, carry):
        t = size - 1 - i
        alpha, beta, exponent, d_decay, d_bonus = carry
        key, value, flag = token = _token(refs, t)
        state = State(*(refs[f"{name}_states"][t] for name in State._fields))
        valid, forgets = _flags(flag)
        y, total, top, own = _read(state, *token, bonus)
        r = valid * refs["dy"][0, t].astype(jnp.float32) / total
        at_key = jnp.exp(_own(key, valid) + exponent) * valid
        of_bonus = own * r * (value - y)
        refs["d_value"][0, t] = (at_key * alpha + own * r).astype(value_dtype)
        refs["d_key"][0, t] = (at_key * (value * alpha + beta) + of_bonus).astype(value_dtype)
        fall = _fall(decay, valid, forgets)
        old = exponent + fall
        faded = jnp.exp(old + state.maximum) * (state.numerator * alpha + state.denominator * beta)
        own_exponent = forgets * NEVER - top
        exponent = jnp.maximum(old, own_exponent)
        kept, new = ((1.0 - forgets) * jnp.exp(x - exponent) for x in (old, own_exponent))
        alpha, beta = kept * alpha + new * r, kept * beta - new * r * y
        return alpha, beta, exponent, d_decay - valid * (1.0 - forgets) * faded, d_bonus + of_bonus

    value_dtype = refs["d_value"].dtype
    _over(size, forth, State(*(refs[f"{name}_entries"][0, 0] for name in State._fields)))
    names = (*carried, "d_decay", "d_bonus")
    for name, array in zip(names, _over(size, back, tuple(refs[name][0] for name in names))):
        refs[name][0] = array


def _over(size, step, carry):
    """`carry = step(t, carry)` for t = 0 ... size - 1."""

    def group(i, carry):
        for j in range(tpu_grid.GROUP):
            carry = step(i * tpu_grid.GROUP + j, carry)
        return carry

    return lax.fori_loop(0, size // tpu_grid.GROUP, group, carry)


def _token(refs, t):
    """(key, value, flags) in float32."""
    return *(refs[name][0, t].astype(jnp.float32) for name in ("key", "value")), refs["flags"][0, 0, t]


def _flags(flag):
    """(1. if the token is valid, 1. if it forgets)."""
    return (flag & 1).astype(jnp.float32), lax.shift_right_logical(flag, 1).astype(jnp.float32)


def _fall(decay, valid, forgets):
    """What a token adds to the exponent of what was before it."""
    return forgets * NEVER - valid * (1.0 - forgets) * decay


def _own(key, valid):
    """The exponent of what a token leaves."""
    return key * valid + (1.0 - valid) * NEVER


def _next(state: State, key, value, flag, decay) -> State:
    """The state behind a token."""
    valid, forgets = _flags(flag)
    old, own = state.maximum + _fall(decay, valid, forgets), _own(key, valid)
    top = jnp.maximum(old, own)
    kept, new = jnp.exp(old - top) * (1.0 - forgets), jnp.exp(own - top) * valid
    return State(kept * state.numerator + new * value, kept * state.denominator + new, top)


def _read(state: State, key, value, flag, bonus):
    """(y, z e^-m, m, e^(u + k - m)) of a token, m the greatest exponent in z."""
    old, own = state.maximum + _flags(flag)[1] * NEVER, key + bonus
    top = jnp.maximum(old, own)
    kept, new = jnp.exp(old - top), jnp.exp(own - top)
    total = kept * state.denominator + new
    return (kept * state.numerator + new * value) / total, total, top, new
