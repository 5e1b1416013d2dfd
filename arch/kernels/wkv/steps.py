"""A token's steps of WKV, forward and backward, for kernels of any kind of device: on arrays of one shape.

The equations are in `average`. Of two exponentials, divided by the greater one, one is 1: a step takes one exponential.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax import lax

from arch.ops.wkv import NEVER, State
from arch.typing import Array


class Token(NamedTuple):
    """What a token brings: key and value, and 1. if it is valid, 1. if it forgets what was before it."""

    key: Array
    value: Array
    valid: Array
    forgets: Array

    @staticmethod
    def of(key, value, flags) -> "Token":
        """Of `average.Tokens`, key and value in float32."""
        valid, forgets = flags & 1, lax.shift_right_logical(flags, 1)
        return Token(key, value, valid.astype(jnp.float32), forgets.astype(jnp.float32))

    def fall(self, decay):
        """What it adds to the exponent of what was before it."""
        return self.forgets * NEVER - self.valid * (1.0 - self.forgets) * decay

    def own(self):
        """The exponent of what it leaves."""
        return self.key * self.valid + (1.0 - self.valid) * NEVER


class Gradient(NamedTuple):
    """What is carried from a token to the one before it.

    Attributes:
      alpha: the gradient by a, divided by e^exponent.
      beta: that by b.
      exponent: the greatest one so far.
      decay: the gradient by it so far.
      bonus: likewise.
    """

    alpha: Array
    beta: Array
    exponent: Array
    decay: Array
    bonus: Array


def forth(state: State, token: Token, decay) -> State:
    """The state behind a token."""
    top, kept, new = _relative(state.maximum + token.fall(decay), token.own())
    kept, new = kept * (1.0 - token.forgets), new * token.valid
    return State(kept * state.numerator + new * token.value, kept * state.denominator + new, top)


def read(state: State, token: Token, bonus):
    """(y, e^m / z, m, e^(u + k - m)) of a token, m the greatest exponent in z."""
    top, kept, new = _relative(state.maximum + token.forgets * NEVER, token.key + bonus)
    inverse = 1.0 / (kept * state.denominator + new)
    return (kept * state.numerator + new * token.value) * inverse, inverse, top, new


def back(carry: Gradient, state: State, token: Token, dy, decay, bonus) -> tuple[Gradient, Array, Array]:
    """(the gradient before a token, those by its key and value), of the state that enters it."""
    alpha, beta, exponent, d_decay, d_bonus = carry
    y, inverse, top, own = read(state, token, bonus)
    r = token.valid * dy * inverse
    at_key = jnp.exp(token.own() + exponent) * token.valid
    of_bonus = own * r * (token.value - y)
    d_key, d_value = at_key * (token.value * alpha + beta) + of_bonus, at_key * alpha + own * r
    old, kept = exponent + token.fall(decay), 1.0 - token.forgets
    faded = jnp.exp(old + state.maximum) * (state.numerator * alpha + state.denominator * beta)
    d_decay -= token.valid * kept * faded
    exponent, fading, new = _relative(old, token.forgets * NEVER - top)
    alpha, beta = kept * (fading * alpha + new * r), kept * (fading * beta - new * r * y)
    return Gradient(alpha, beta, exponent, d_decay, d_bonus + of_bonus), d_key, d_value


def _relative(one, other):
    """(the greater exponent m, e^(one - m), e^(other - m))."""
    less = jnp.exp(-jnp.abs(one - other))
    ones = jnp.ones_like(less)
    return jnp.maximum(one, other), jnp.where(one < other, less, ones), jnp.where(one < other, ones, less)
