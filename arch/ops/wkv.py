"""WKV of RWKV-4: an average of all past values, weighted by exponentials of their keys that decay at a rate a channel.

    y_t = (sum_{i<t} e^{k_i - (t-1-i) w} v_i + e^{u + k_t} v_t) / (sum_{i<t} e^{k_i - (t-1-i) w} + e^{u + k_t})

Source: Peng et al. 2023, "RWKV: Reinventing RNNs for the Transformer Era" (arXiv 2305.13048, sec. 3.1.2, equation 16;
the recurrence with a running maximum is its appendix D). Numerator and denominator are kept divided by e^m, where m is
the greatest exponent met so far, so nothing overflows whatever the keys. What two spans of tokens, one behind the
other, leave is an associative function of what each leaves: that is the parallel form.
"""

from functools import partial
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from arch.ops import chunks
from arch.typing import Array, Bool, Float

Implementation = Literal["chunked", "parallel", "recurrent"]

NEVER = -1e30
"""An exponent whose exponential is zero, many of which may be added up."""


class State(NamedTuple):
    """What a span of tokens leaves: sums of e^(exponent - maximum) v, and of e^(exponent - maximum)."""

    numerator: Float[Array, "*b f"]
    denominator: Float[Array, "*b f"]
    maximum: Float[Array, "*b f"]


def empty(batch: int, channels: int) -> State:
    """The state before the first token."""
    zeros = jnp.zeros((batch, channels), jnp.float32)
    return State(zeros, zeros, jnp.full_like(zeros, NEVER))


def wkv(
    key: Float[Array, "b t f"],
    value: Float[Array, "b t f"],
    decay: Float[Array, "f"],
    bonus: Float[Array, "f"],
    *,
    state: State | None = None,
    reset: Bool[Array, "b t"] | None = None,
    valid: Bool[Array, "b t"] | None = None,
    chunk: int = 16,
    implementation: Implementation | None = None,
) -> tuple[Float[Array, "b t f"], State]:
    """The weighted averages, from a given state.

    Args:
      key: exponents k of any size.
      value: what is averaged.
      decay: w >= 0, by how much the exponents of past tokens fall a token.
      bonus: u, added to the present token's exponent.
      state: what the tokens before the first left; None is `empty`.
      reset: true at the first token of a packed segment, which sees none before it.
      valid: tokens that are not valid leave the state as it was, resets too; their results are of no meaning. None is
        all.
      chunk: tokens that are combined at a time; the backward pass keeps one state for each chunk.
      implementation: 'recurrent' goes token by token; 'parallel' combines spans in a tree; 'chunked' does that within
        chunks, one after the other. None is 'recurrent' for one token, else 'chunked'.

    Returns:
      y in value.dtype and the state after the last token; all arithmetic is in float32 (float64 if an argument is).

    Raises:
      ValueError: chunk or implementation is not one of the above.
    """
    if implementation not in (None, "chunked", "parallel", "recurrent"):
        raise ValueError(f"implementation={implementation!r} must be None, 'chunked', 'parallel' or 'recurrent'")
    (batch, length, channels), shape = key.shape, key.shape[:2]
    dtype = jnp.promote_types(jnp.result_type(key, value, decay, bonus), jnp.float32)
    valid = jnp.ones(shape, bool) if valid is None else valid
    reset = jnp.zeros(shape, bool) if reset is None else reset & valid
    tokens = _Tokens(key.astype(dtype), value.astype(dtype), reset, valid)
    S = jax.tree.map(lambda array: array.astype(dtype), empty(batch, channels) if state is None else state)
    recurrent = implementation == "recurrent" or implementation is None and length == 1
    within = _recurrent if recurrent else _parallel
    step = partial(within, decay=decay.astype(dtype), bonus=bonus.astype(dtype))
    size = max(1, length) if implementation == "parallel" else chunk
    cut = tokens._replace(**{name: chunks.split(getattr(tokens, name), size) for name in tokens._fields})
    S, y = chunks.scan(step, S, cut)
    return chunks.join(y, length).astype(value.dtype), S


class _Tokens(NamedTuple):
    """What each token brings; those behind the last one, which fill the last chunk, are not valid."""

    key: Float[Array, "*l b c f"]
    value: Float[Array, "*l b c f"]
    reset: Bool[Array, "*l b c"]
    valid: Bool[Array, "*l b c"]


def _leaves(tokens: _Tokens) -> State:
    """What each token alone leaves: nothing if it is not valid."""
    valid = tokens.valid[..., None]
    one = jnp.ones_like(tokens.key)
    return State(jnp.where(valid, tokens.value, 0), jnp.where(valid, one, 0), jnp.where(valid, tokens.key, NEVER))


def _falls(tokens: _Tokens, decay: Float[Array, "f"]) -> Float[Array, "*b f"]:
    """What each token adds to the exponents of what was before it."""
    return jnp.where(tokens.reset[..., None], NEVER, jnp.where(tokens.valid[..., None], -decay, 0))


def add(before: State, fall: Float[Array, "*b f"], after: State) -> State:
    """What two spans leave, of which the second one adds `fall` to the exponents of the first."""
    old = before.maximum + fall
    maximum = jax.lax.stop_gradient(jnp.maximum(old, after.maximum))
    kept, new = jnp.exp(old - maximum), jnp.exp(after.maximum - maximum)
    numerator = kept * before.numerator + new * after.numerator
    return State(numerator, kept * before.denominator + new * after.denominator, maximum)


def _read(before: State, tokens: _Tokens, bonus: Float[Array, "f"]) -> Float[Array, "*b f"]:
    own = State(tokens.value, jnp.ones_like(tokens.value), tokens.key + bonus)
    both = add(before, jnp.where(tokens.reset[..., None], NEVER, jnp.zeros_like(bonus)), own)
    return both.numerator / both.denominator


def _recurrent(S: State, tokens: _Tokens, *, decay, bonus):
    def step(S, token):
        return add(S, _falls(token, decay), _leaves(token)), _read(S, token, bonus)

    S, y = jax.lax.scan(step, S, jax.tree.map(lambda array: jnp.swapaxes(array, 0, 1), tokens))
    return S, jnp.swapaxes(y, 0, 1)


def _parallel(S: State, tokens: _Tokens, *, decay, bonus):
    def join(left, right):
        (fall, before), (further, after) = left, right
        return fall + further, add(before, further, after)

    first = jax.tree.map(lambda one, rest: jnp.concatenate([one[:, None], rest], axis=1), S, _leaves(tokens))
    falls = jnp.pad(_falls(tokens, decay), ((0, 0), (1, 0), (0, 0)))
    _, prefixes = jax.lax.associative_scan(join, (falls, first), axis=1)
    y = _read(jax.tree.map(lambda array: array[:, :-1], prefixes), tokens, bonus)
    return jax.tree.map(lambda array: array[:, -1], prefixes), y
