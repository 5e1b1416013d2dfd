"""The selective scan on TPU: a grid over examples, blocks of channels and chunks, with the state in vector memory.

The equations are in `scan`. States lie along sublanes and channels along lanes, so that what a token brings to all
channels, B_t and C_t, is a column, and what it brings to all states, x_t and delta_t, a row. Columns come of the
transpose of GROUP tokens at a time, whose steps are unrolled. In the backward pass a chunk goes forward once more, to
recompute the state that enters each of its tokens, and then in reverse.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from arch.kernels import compat
from arch.kernels.selective_scan import tpu_grid
from arch.kernels.selective_scan.tpu_grid import Grid, whole
from arch.typing import Array

__all__ = ["backward", "forward", "misfit", "whole"]

DTYPES = (jnp.dtype(jnp.float32), jnp.dtype(jnp.bfloat16))
MOST_STATES = 64


def misfit(dtype, states: int) -> str:
    """Why the kernels do not take x of this dtype, and so many states of a channel; '' if they do."""
    if dtype not in DTYPES:
        return f"x.dtype={dtype} must be one of float32, bfloat16"
    if states > MOST_STATES:
        return f"{states=} of a channel must be at most {MOST_STATES}"
    return ""


def forward(launch, tokens, state: Array):
    """(y like x, last state [b n f], the states that enter each chunk [b l n f])."""
    grid = Grid(tokens)
    (b, n, f), like = state.shape, lambda *shape: jax.ShapeDtypeStruct(shape, jnp.float32)
    results = {
        "y": (jax.ShapeDtypeStruct(tokens.x.shape, tokens.x.dtype), grid.tokens()),
        "last": (like(b, n, f), grid.state()),
        "entries": (like(b, grid.chunks, n, f), grid.entry()),
    }
    operands = grid.operands(tokens) | {"state": (state, grid.state())}
    return tuple(grid.run("selective_scan", _forward, operands, results, {}, launch))


def _forward(chunk, refs):
    pl, _ = compat.tpu()

    @pl.when(pl.program_id(2) == 0)
    def _():
        refs["last"][...] = refs["state"][...]

    refs["entries"][0] = refs["last"][...]
    A, D = refs["A"][...], refs["D"][...]

    def group(i, h):
        rows, group, found = _Group.rows(i), _Group.read(refs, i), []
        for token in map(group.token, range(tpu_grid.GROUP)):
            h = token.next(A, h)
            found.append(jnp.sum(h * token.C, axis=0, keepdims=True) + D * token.x)
        refs["y"][0, rows] = jnp.concatenate(found, axis=0).astype(refs["y"].dtype)
        return h

    refs["last"][0] = lax.fori_loop(0, chunk // tpu_grid.GROUP, group, refs["last"][0])


def backward(launch, tokens, entries: Array, dy: Array, d_last: Array):
    """(gradients of the tokens but D, of the state before the first)."""
    grid = Grid(tokens, reverse=True)
    (b, n, f), t, like = d_last.shape, tokens.x.shape[1], lambda *shape: jax.ShapeDtypeStruct(shape, jnp.float32)
    operands = grid.operands(tokens) | {
        "entries": (entries, grid.entry()),
        "dy": (dy, grid.tokens()),
        "d_last": (d_last, grid.state()),
    }
    results = {
        "dx": (jax.ShapeDtypeStruct(tokens.x.shape, tokens.x.dtype), grid.tokens()),
        "d_delta": (like(b, t, f), grid.tokens()),
        "d_shared": (like(b, f // grid.block, t, 2 * n), grid.shared_of_block()),
        "dA": (like(b, n, f), grid.state()),
        "d_state": (like(b, n, f), grid.state()),
    }
    scratch = {"states": (grid.chunk + 1, n, grid.block)}
    name = "selective_scan_backward"
    dx, d_delta, d_shared, dA, d_state = grid.run(name, _backward, operands, results, scratch, launch)
    dB, dC = jnp.split(jnp.sum(d_shared, axis=1), 2, axis=-1)
    return type(tokens)(dx, d_delta, jnp.sum(dA, axis=0), dB, dC, None, None), d_state


def _backward(chunk, refs):
    pl, _ = compat.tpu()

    @pl.when(pl.program_id(2) == 0)
    def _():
        refs["d_state"][...] = refs["d_last"][...]
        refs["dA"][...] = jnp.zeros_like(refs["dA"])

    A, D = refs["A"][...], refs["D"][...]

    def forth(i, h):
        group = _Group.read(refs, i)
        for j in range(tpu_grid.GROUP):
            refs["states"][i * tpu_grid.GROUP + j] = h
            h = group.token(j).next(A, h)
        return h

    def back(i, carry):
        g, dA = carry
        i = chunk // tpu_grid.GROUP - 1 - i
        rows, group = _Group.rows(i), _Group.read(refs, i)
        dy = refs["dy"][0, rows].astype(jnp.float32)
        found = {name: [None] * tpu_grid.GROUP for name in ("dx", "d_delta", "dB", "dC")}
        for j in reversed(range(tpu_grid.GROUP)):
            token, dy_t, decay = group.token(j), dy[j : j + 1], group.token(j).decay(A)
            before, after = refs["states"][i * tpu_grid.GROUP + j], refs["states"][i * tpu_grid.GROUP + j + 1]
            g = g + token.C * dy_t
            written = jnp.sum(token.B * g, axis=0, keepdims=True)
            found["dB"][j] = jnp.sum(g * (token.delta * token.x), axis=1, keepdims=True)
            found["dC"][j] = jnp.sum(after * dy_t, axis=1, keepdims=True)
            g = decay * g
            exponent = g * before
            found["dx"][j] = token.delta * written + D * dy_t
            found["d_delta"][j] = jnp.sum(exponent * A, axis=0, keepdims=True) + token.x * written
            dA = dA + exponent * token.delta
        for name in ("dx", "d_delta"):
            refs[name][0, rows] = jnp.concatenate(found[name], axis=0).astype(refs[name].dtype)
        columns = [jnp.concatenate(found[name], axis=1) for name in ("dB", "dC")]
        refs["d_shared"][0, 0, rows] = jnp.concatenate(columns, axis=0).T
        return g, dA

    count = chunk // tpu_grid.GROUP
    refs["states"][chunk] = lax.fori_loop(0, count, forth, refs["entries"][0, 0])
    carry = lax.fori_loop(0, count, back, (refs["d_state"][0], refs["dA"][0]))
    refs["d_state"][0], refs["dA"][0] = carry


class _Token(NamedTuple):
    """What a token brings: x and delta [1 f], B and C [n 1], keep [1 1]."""

    x: Array
    delta: Array
    B: Array
    C: Array
    keep: Array

    def decay(self, A):
        return jnp.exp(self.delta * A) * self.keep

    def next(self, A, h):
        """The state behind it, of the one before it."""
        return self.decay(A) * h + self.B * (self.delta * self.x)


class _Group(NamedTuple):
    """GROUP tokens: x and delta [GROUP f], and B, C and keep as columns [2n+1 GROUP]."""

    x: Array
    delta: Array
    shared: Array

    @staticmethod
    def rows(i):
        pl, _ = compat.tpu()
        return pl.ds(pl.multiple_of(i * tpu_grid.GROUP, tpu_grid.GROUP), tpu_grid.GROUP)

    @staticmethod
    def read(refs, i) -> "_Group":
        rows = _Group.rows(i)
        return _Group(refs["x"][0, rows].astype(jnp.float32), refs["delta"][0, rows], refs["shared"][0, rows].T)

    def token(self, j: int) -> _Token:
        n, column = len(self.shared) // 2, self.shared[:, j : j + 1]
        return _Token(self.x[j : j + 1], self.delta[j : j + 1], column[:n], column[n : 2 * n], column[2 * n :])
