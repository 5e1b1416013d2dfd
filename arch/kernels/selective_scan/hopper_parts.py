"""What the Hopper kernels of the selective scan share: where numbers lie, what a thread block has, and a token's step.

A thread block has 4 w channels with their n states, an array [4 w n] in registers: each of its four warps has w
channels, each lane every eighth of them and, of each sixteen states, four. So a sum over states takes two shuffles and
one over a warp's channels three; and what a token brings to all channels, or to all states, is read once for several.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax import lax

from arch.kernels import compat, lanes
from arch.typing import Array

WARPS = 4
NUMBERS = 8
"""Of a state [4 w n] that a thread has, or 12 where there are more than 32 states."""
MULTIPLE = 16
"""Of states."""
LOG2E = 1.4426950408889634
NEVER = -1e30
"""An exponent whose exponential is zero."""


def width(states: int) -> int:
    """w, for so many states."""
    return 8 * max(1, 4 * NUMBERS // states)


def layout(*axes: int):
    """Of an array [4 w n] in registers, or of one that lacks these axes."""
    _, plgpu = compat.modules()
    tiling = plgpu.Tiling(((WARPS, 8, MULTIPLE), (4,)))
    whole = plgpu.Layout.TILED(tiling, warp_dims=(-4,), lane_dims=(-3, -2), vector_dim=-1)
    return whole.reduce(axes) if axes else whole


def load(ref, *axes: int) -> Array:
    """Numbers of memory, in registers as an array [4 w n] without these axes lies there."""
    _, plgpu = compat.modules()
    return plgpu.load(ref, layout=layout(*axes), optimized=False)


class Token(NamedTuple):
    """What a token brings: x and delta [4 w], B and C [n], `forget` [], 0 or NEVER."""

    x: Array
    delta: Array
    B: Array
    C: Array
    forget: Array

    def decay(self, A):
        """exp(delta A), of A log2(e) [4 w n]."""
        return jnp.exp2(of_channels(self.delta, A) * A + self.forget)

    def write(self, A):
        """What it adds to the state [4 w n]."""
        return of_channels(self.delta * self.x, A) * of_states(self.B, A)


def of_channels(values, like):
    """[4 w n] of [4 w]."""
    return _spread(values, like, (0, 1))


def of_states(values, like):
    """[4 w n] of [n]."""
    return _spread(values, like, (2,))


def _spread(values, like, axes):
    _, plgpu = compat.modules()
    return plgpu.layout_cast(lax.broadcast_in_dim(values, like.shape, axes), layout())


class Rows(NamedTuple):
    """`scan.Tokens` as the kernels read them, a warp's channels a row.

    Attributes:
      x: [b t f/w w].
      delta: float32 [b t f/w w].
      A: float32 [f/w w n], times log2(e).
      B: float32 [b t n].
      C: float32 [b t n].
      D: float32 [f/w w].
      forget: float32 [b t] NEVER where the incoming state is forgotten, else 0.
    """

    x: Array
    delta: Array
    A: Array
    B: Array
    C: Array
    D: Array
    forget: Array

    @staticmethod
    def of(tokens) -> "Rows":
        rows = lambda array: in_rows(array, len(tokens.A))
        A, D = states_last(LOG2E * tokens.A), rows(tokens.D[0])
        return Rows(rows(tokens.x), rows(tokens.delta), A, tokens.B, tokens.C, D, NEVER * (1.0 - tokens.keep[..., 0]))


def in_rows(array, states: int) -> Array:
    """[... f] as [... f/w w]."""
    return array.reshape(*array.shape[:-1], -1, width(states))


def states_last(array) -> Array:
    """[... n f] as [... f/w w n]."""
    n = array.shape[-2]
    return array.swapaxes(-1, -2).reshape(*array.shape[:-2], -1, width(n), n)


def states_first(array) -> Array:
    """[... f/w w n] as [... n f]."""
    return array.reshape(*array.shape[:-3], -1, array.shape[-1]).swapaxes(-1, -2)


class Block(lanes.Block):
    """Four rows of w channels, and their states."""

    def __init__(self, refs, size):
        super().__init__(refs, size)
        pl, _ = compat.modules()
        self.channels = pl.ds(pl.multiple_of(self.index * WARPS, WARPS), WARPS)

    def part(self, name, chunk, rows):
        places = {
            **dict.fromkeys(("x", "delta", "y", "dy", "dx", "d_delta"), (self.batch, rows, self.channels)),
            **dict.fromkeys(("B", "C", "forget"), (self.batch, rows)),
            **dict.fromkeys(("dB", "dC"), (self.batch, self.index, rows)),
            "entries": (self.batch, chunk, self.channels),
        }
        return self.refs[name].at[places[name]]

    def token(self, slot, t) -> Token:
        """Of the chunk in this slot."""
        tile = lambda name: self.refs[f"{name}_tile"].at[slot, t]
        x, delta = (load(tile(name), 2).astype(jnp.float32) for name in ("x", "delta"))
        return Token(x, delta, *(load(tile(name), 0, 1) for name in "BC"), self.refs["forget_tile"][slot, t])
