"""Ring attention: keys and values go round the shards of a row's tokens, and each shard's queries meet them all.

    O = sum_r exp(L_r - L) O_r,    L = log sum_r exp(L_r)        r: the shard whose keys and values are here in a round

Liu, Zaharia & Abbeel, Ring Attention with Blockwise Transformers for Near-Infinite Context, 2023, arXiv 2310.01889. In
causal rows the first shard would have next to nothing to do, so tokens are dealt anew around it: of 2 c parts of a row
shard i gets the i-th and the (2 c - 1 - i)-th (Llama Team, The Llama 3 Herd of Models, 2024, arXiv 2407.21783, sec.
3.3.2). Then a round is, on every shard, two squares of parts whose pairs are all visible: the late queries with the
early keys, and the early queries with the early keys where those come from a shard before, else the late ones with the
late ones. A window needs no ring, but the keys just before the shard's own (`arch.sharding.context.before`).

Own queries, keys and values, O and L are all that the backward pass keeps: keys and values go round again, with their
gradients. Each round's O_r and L_r are computed once more there.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from arch.ops import patterns
from arch.ops.patterns.predicates import Distance
from arch.ops.sparse_attention import merge
from arch.sharding.context import AXIS, after, before
from arch.typing import Array, Bool, Float, Int

Part = Callable[..., tuple[Array, Array]]
"""(query, keys, pattern, segments [b t], places [b t], operands, sinks) -> (result, logsumexp), of `Keys`."""


class Keys(NamedTuple):
    """What of a shard's tokens is seen: what goes round."""

    key: Float[Array, "b s k h"]
    value: Float[Array, "b s k v"]
    places: Int[Array, "b s"]
    segments: Int[Array, "b s"] | None
    valid: Bool[Array, "b s"] | None


def ring_attend(
    part: Part,
    query: Float[Array, "b t n h"],
    key: Float[Array, "b t k h"],
    value: Float[Array, "b t k v"],
    *,
    causal: bool,
    window: int = 0,
    segments: Int[Array, "b t"] | None = None,
    valid: Bool[Array, "b t"] | None = None,
    operands: Any = None,
    sinks: Float[Array, "n"] | None = None,
) -> Float[Array, "b t n v"]:
    """Self-attention of rows of which this shard has some tokens, in order; called inside `shard_map`.

    Args:
      part: attention of some queries to some keys.
      query: of this shard's tokens, as are all arrays.
      key: see above.
      value: see above.
      causal: a query sees only keys whose place is not after its own.
      window: a query sees only keys less than so many places away; 0 for all.
      segments: packed documents; a query sees only its own.
      valid: False for keys nobody sees.
      operands: of the part, with a gradient.
      sinks: a logit of each head that stands in the softmax's denominator only.

    Raises:
      ValueError: a causal shard has an odd number of tokens.
    """
    batch, length = query.shape[:2]
    places = jnp.broadcast_to(lax.axis_index(AXIS) * length + jnp.arange(length), (batch, length))
    own = Keys(key, value, places, segments, valid)
    if window:
        return _in_window(part, causal, window, query, own, operands, sinks)
    if causal:
        if length % 2:
            parts = 2 * lax.axis_size(AXIS)
            raise ValueError(f"seq_len={length * parts // 2} must be a multiple of 2 * mesh.context = {parts}")
        query, own = jax.tree.map(_dealt, (query, own))
    row = own.places, own.segments, own.valid
    out = _ring((part, causal), query, own.key, own.value, row, operands, sinks)
    return _dealt_back(out) if causal else out


def _in_window(part, causal, window, query, own, operands, sinks):
    length = query.shape[1]
    count = min(window - 1, (lax.axis_size(AXIS) - 1) * length)
    own = own._replace(valid=jnp.ones(own.places.shape, bool) if own.valid is None else own.valid)  # none outside rows

    def around(array):
        behind = () if causal else (after(array, count),)
        return jnp.concatenate([before(array, count), array, *behind], axis=1)

    low = 0 if causal else 1 - window
    pattern = Distance(low - count, window - 1 - count)  # keys count from the first one that is here
    return part(query, jax.tree.map(around, own), pattern, own.segments, own.places, operands, sinks)[0]


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _ring(rule, query, key, value, row, operands, sinks):
    """`row` is (places, segments, valid)."""
    return _forward(rule, query, key, value, row, operands, sinks)[0]


def _forward(rule, query, key, value, row, operands, sinks):
    own = Keys(key, value, *row)

    def step(state, number):
        others, *found = state
        coming = _passed(others)
        found = merge([tuple(found), _meet(rule, number, query, own, others, operands)])
        return (coming, *found), None

    out, logsumexp = _own(rule, query, own, operands, sinks)
    state = _passed(own), out.astype(logsumexp.dtype), logsumexp
    (_, out, logsumexp), _ = lax.scan(step, state, jnp.arange(1, lax.axis_size(AXIS)))
    out = out.astype(query.dtype)
    return out, (query, own, operands, sinks, out, logsumexp)


def _backward(rule, residuals, d_out):
    query, own, operands, sinks, out, logsumexp = residuals
    wide = logsumexp.dtype
    d_out = d_out.astype(wide)
    inner = _by_head(d_out, out.astype(wide))

    def pulled(function, *arguments):
        """Gradients by the arguments of a round's (result, logsumexp), from its share in the whole."""
        (some, local), pull = jax.vjp(function, *arguments)
        share = jnp.where(logsumexp > -jnp.inf, jnp.exp(local - logsumexp), 0)
        d_some = share.swapaxes(1, 2)[..., None] * d_out
        return pull((d_some.astype(some.dtype), share * (_by_head(d_out, some.astype(wide)) - inner)))

    def step(state, number):
        others, d_others, d_query, d_operands = state
        coming = _passed(others)

        def met(query, key, value, operands):
            return _meet(rule, number, query, own, others._replace(key=key, value=value), operands)

        more_query, *more_others, more_operands = pulled(met, query, others.key, others.value, operands)
        d_others = _passed(_add(d_others, more_others))
        return (coming, d_others, _add(d_query, more_query), _add(d_operands, more_operands)), None

    def met(query, key, value, operands, sinks):
        return _own(rule, query, own._replace(key=key, value=value), operands, sinks)

    d_query, d_key, d_value, d_operands, d_sinks = pulled(met, query, own.key, own.value, operands, sinks)
    nothing = [jnp.zeros(array.shape, wide) for array in (own.key, own.value)]
    state = _passed(own), nothing, d_query.astype(wide), d_operands
    (_, d_others, d_query, d_operands), _ = lax.scan(step, state, jnp.arange(1, lax.axis_size(AXIS)))
    d_key, d_value = _add(d_others, [d_key, d_value])  # they are home again
    gradients = (array.astype(query.dtype) for array in (d_query, d_key, d_value))
    return *gradients, None, d_operands, d_sinks


_ring.defvjp(_forward, _backward)


def _own(rule, query, own, operands, sinks):
    """(result, logsumexp) of a shard's queries and its own keys."""
    part, causal = rule
    pattern = patterns.causal if causal else patterns.full
    return part(query, own, pattern, own.segments, own.places, operands, sinks)


def _meet(rule, number, query, own, others, operands):
    """The same, of the keys of the shard so many before; `own` tells of the queries."""
    part, causal = rule
    if not causal:
        return part(query, others, patterns.full, own.segments, own.places, operands, None)
    earlier = number <= lax.axis_index(AXIS)
    both = lambda one, two: jax.tree.map(lambda a, b: jnp.concatenate([a, b]), one, two)
    chosen = lambda one, two: jax.tree.map(lambda a, b: jnp.where(earlier, a, b), one, two)
    early, late = _halves((query, own.segments, own.places))
    first, second = _halves(others)
    queries, segments, places = both(late, chosen(early, late))
    out, logsumexp = part(queries, both(first, chosen(first, second)), patterns.full, segments, places, operands, None)
    (late_out, some_out), (late_sum, some_sum) = jnp.split(out, 2), jnp.split(logsumexp, 2)
    nothing = jnp.full_like(some_sum, -jnp.inf)
    late = merge([(late_out, late_sum), (some_out, jnp.where(earlier, nothing, some_sum))])
    early = some_out, jnp.where(earlier, some_sum, nothing)
    return jnp.concatenate([early[0], late[0]], axis=1), jnp.concatenate([early[1], late[1]], axis=2)


def _halves(tree):
    """Of the tokens."""
    half = lambda way: jax.tree.map(lambda array: jnp.split(array, 2, axis=1)[way], tree)
    return half(0), half(1)


def _add(one, two):
    """In the first one's types."""
    return jax.tree.map(lambda a, b: a + b.astype(a.dtype), one, two)


def _by_head(one, two):
    """[b n t] products of rows [b t n v]."""
    return jnp.sum(one * two, axis=-1).swapaxes(1, 2)


def _passed(tree):
    """To the next shard."""
    size = lax.axis_size(AXIS)
    return jax.tree.map(lambda array: lax.ppermute(array, AXIS, [(i, (i + 1) % size) for i in range(size)]), tree)


def _dealt(array):
    """The i-th and the (2 c - 1 - i)-th part of the row, from the 2 i-th and the one behind it."""
    even, odd = (lax.ppermute(half, AXIS, ways) for half, ways in zip(jnp.split(array, 2, axis=1), _ways()))
    return _crossed(even, odd)


def _dealt_back(array):
    even, odd = jnp.split(_crossed(*jnp.split(array, 2, axis=1)), 2, axis=1)
    halves = (lax.ppermute(half, AXIS, [(j, i) for i, j in ways]) for half, ways in zip((even, odd), _ways()))
    return jnp.concatenate(list(halves), axis=1)


def _ways():
    """Where each shard sends its even part, and its odd one: each time to every shard once."""
    size = lax.axis_size(AXIS)
    shard_of = lambda part: min(part, 2 * size - 1 - part)
    return [(i, shard_of(2 * i)) for i in range(size)], [(i, shard_of(2 * i + 1)) for i in range(size)]


def _crossed(one, two):
    """The two side by side, in this order on even shards, else in the other."""
    even = lax.axis_index(AXIS) % 2 == 0
    return jnp.concatenate([jnp.where(even, one, two), jnp.where(even, two, one)], axis=1)
