"""Decayed linear attention on TPU: a grid over examples, heads and chunks, with the state in vector memory.

The equations are in `decayed`. The last axis of the grid goes from chunk to chunk, forward, or in the backward pass
from the last span of chunks to the first: each span first forward, to recompute the states that enter its chunks, and
then in reverse. All arrays here are [b heads length channels], whole spans long. Heads that share queries and keys
share their products, `Plan.members` of them at a time.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from arch.kernels import compat
from arch.kernels.linear_attention.plan import Plan, Tokens
from arch.kernels.linear_attention.tpu_grid import Grid
from arch.typing import Array

DTYPES = (jnp.dtype(jnp.float32), jnp.dtype(jnp.bfloat16))
HEADS_FIRST = True
CHUNK = 128
"""Tokens of a chunk: the lanes of a vector register."""
SPAN_BYTES = 4 << 20
"""Of vector memory, for the states of a span."""
MOST_CHUNKS = 16
MOST_MEMBERS = 8
MOST_STATES = 1 << 18
NT, NN, TN = (((1,), (1,)), ((), ())), (((1,), (0,)), ((), ())), (((0,), (0,)), ((), ()))


def misfit(dtype, channels: tuple[int, int]) -> str:
    """Why the kernels do not take operands of this dtype, and channels of a key and a value; '' if they do."""
    if dtype not in DTYPES:
        return f"query.dtype={dtype} must be one of float32, bfloat16"
    if channels[0] * channels[1] > MOST_STATES:
        return f"{channels=} of a key and a value must multiply to at most {MOST_STATES}"
    return ""


def plan(length: int, channels: tuple[int, int], group: int, launch: object) -> Plan:
    """Of rows of so many tokens, so many heads of which share their queries and keys."""
    state_bytes = 4 * channels[0] * (channels[1] + -channels[1] % 128)
    fitting = (
        size for size in range(1, MOST_MEMBERS + 1) if group % size == 0 and 4 * size * state_bytes <= SPAN_BYTES
    )
    members = max(fitting, default=1)
    most = max(1, min(MOST_CHUNKS, SPAN_BYTES // (members * state_bytes)))
    return Plan.of(length, chunk=CHUNK, most=most, members=members, launch=launch)


def forward(plan: Plan, tokens: Tokens, state: Array):
    """(out [b n t v], last state [b n h v], the states that enter each span [b n spans h v])."""
    grid = Grid(plan, tokens, lambda step: (step, step))
    operands = grid.operands(tokens) | {"state": (state, grid.state())}
    b, n, _, v = tokens.value.shape
    spans = jax.ShapeDtypeStruct((b, n, plan.spans, *state.shape[2:]), jnp.float32)
    results = {
        "out": (jax.ShapeDtypeStruct(tokens.value.shape, tokens.value.dtype), grid.values(v)),
        "last": (jax.ShapeDtypeStruct(state.shape, jnp.float32), grid.state()),
        "entries": (spans, grid.entries(lambda step: lax.div(step, plan.chunks))),
    }
    steps, products = plan.chunks * plan.spans, 4
    return tuple(grid.run("decayed_attention", _forward, operands, results, {}, steps=steps, products=products))


def _forward(plan, refs):
    pl, _ = compat.tpu()
    step = pl.program_id(2)

    @pl.when(step == 0)
    def _():
        refs["last"][...] = refs["state"][...]

    @pl.when(lax.rem(step, plan.chunks) == 0)
    def _():
        refs["entries"][0, :, 0] = refs["last"][0]

    query, key = refs["query"][0, 0], refs["key"][0, 0]
    scores = _dot(query, key, NT)

    def member(i, _):
        decays, value, state = _decays(refs, i), refs["value"][0, i], refs["last"][0, i]
        out = _dot((scores * decays.within).astype(value.dtype), value, NN)
        out += decays.entering * _dot(query, state.astype(query.dtype), NN)
        refs["out"][0, i] = out.astype(value.dtype)
        refs["last"][0, i] = _next(state, key, value, decays)

    lax.fori_loop(0, plan.members, member, None)


def backward(plan: Plan, tokens: Tokens, entries: Array, d_out: Array, d_last: Array):
    """(gradients of the tokens, of the state before the first)."""
    steps = 2 * plan.chunks - 1  # of a span: but the last chunk, forward; all, in reverse

    def chunk(step):
        """That of keys and values, and that of what only the way back needs."""
        span, at = plan.spans - 1 - lax.div(step, steps), lax.rem(step, steps)
        back = jnp.minimum(plan.chunks - 1, steps - 1 - at)
        return tuple(span * plan.chunks + place for place in (jnp.minimum(at, back), back))

    grid = Grid(plan, tokens, chunk)
    (b, n, t, v), (_, k, _, h) = tokens.value.shape, tokens.query.shape
    state = jax.ShapeDtypeStruct(d_last.shape, jnp.float32)
    operands = grid.operands(tokens) | {
        "entries": (entries, grid.entries(lambda step: plan.spans - 1 - lax.div(step, steps))),
        "d_out": (d_out, grid.values(v, back=True)),
        "d_last": (d_last, grid.state()),
    }
    queries = jax.ShapeDtypeStruct((b, n // plan.members, t, h), tokens.query.dtype)
    results = {
        "d_query": (queries, grid.part(h)),
        "d_key": (queries, grid.part(h)),
        "d_value": (jax.ShapeDtypeStruct(tokens.value.shape, tokens.value.dtype), grid.values(v, back=True)),
        "d_total": (jax.ShapeDtypeStruct((b, n, 1, t), jnp.float32), grid.row(back=True)),
        "d_state": (state, grid.state()),
    }
    scratch = {"states": (plan.chunks, plan.members, h, v), "d_scores": (plan.chunk, plan.chunk)}
    scratch |= {name: (plan.chunk, h) for name in ("query_sums", "key_sums")}
    name = "decayed_attention_backward"
    found = grid.run(name, _backward, operands, results, scratch, steps=plan.spans * steps, products=11)
    d_query, d_key, d_value, d_total, d_state = found
    together = lambda parts: jnp.sum(parts.reshape(b, k, -1, t, h), axis=2, dtype=jnp.float32).astype(parts.dtype)
    return Tokens(together(d_query), together(d_key), d_value, d_total[:, :, 0], None), d_state


def _backward(plan, refs):
    pl, _ = compat.tpu()
    steps = 2 * plan.chunks - 1
    step = lax.rem(pl.program_id(2), steps)

    @pl.when(pl.program_id(2) == 0)
    def _():
        refs["d_state"][...] = refs["d_last"][...]

    @pl.when(step == 0)
    def _():
        refs["states"][0] = refs["entries"][0, :, 0]

    @pl.when(step < plan.chunks - 1)
    def _():
        def member(i, _):
            entering = refs["states"][step, i]
            refs["states"][step + 1, i] = _next(entering, refs["key"][0, 0], refs["value"][0, i], _decays(refs, i))

        lax.fori_loop(0, plan.members, member, None)

    pl.when(step >= plan.chunks - 1)(lambda: _chunk_backward(plan, refs, steps - 1 - step))


def _chunk_backward(plan, refs, at):
    """Of the chunk at this place of its span."""
    query, key, dtype = refs["query"][0, 0], refs["key"][0, 0], refs["query"].dtype
    scores = _dot(query, key, NT)
    for name in ("d_scores", "query_sums", "key_sums"):
        refs[name][...] = jnp.zeros_like(refs[name])

    def member(i, _):
        decays, value, d_out = _decays(refs, i), refs["value"][0, i], refs["d_out"][0, i]
        state, d_state = refs["states"][at, i], refs["d_state"][0, i]
        weights, d_weights = scores * decays.within, _dot(d_out, value, NT)
        refs["d_scores"][...] += d_weights * decays.within
        d_query = decays.entering * _dot(d_out, state.astype(dtype), NT)
        d_key = decays.leaving * _dot(value, d_state.astype(dtype), NT)
        refs["query_sums"][...] += d_query
        refs["key_sums"][...] += d_key
        left = decays.leaving * _dot(key, d_state.astype(dtype), NN)
        refs["d_value"][0, i] = (_dot(weights.astype(dtype), d_out, TN) + left).astype(dtype)

        by_pair, left_by = d_weights * weights, _over(d_key * key)
        column = jnp.sum(by_pair, axis=1, keepdims=True) + _over(d_query * query) - left_by
        d_end = jnp.sum(left_by, axis=0, keepdims=True) + decays.across * jnp.sum(state * d_state, keepdims=True)
        row = column.reshape(1, plan.chunk) - jnp.sum(by_pair, axis=0, keepdims=True)
        place = lax.broadcasted_iota(jnp.int32, row.shape, 1)
        refs["d_total"][0, i] = row + jnp.where(place == plan.chunk - 1, d_end, 0.0)
        d_entering = _dot((query * decays.entering).astype(dtype), d_out, TN)
        refs["d_state"][0, i] = decays.across * d_state + d_entering

    lax.fori_loop(0, plan.members, member, None)
    d_scores = refs["d_scores"][...].astype(dtype)
    refs["d_query"][0, 0] = (refs["query_sums"][...] + _dot(d_scores, key, NN)).astype(dtype)
    refs["d_key"][0, 0] = (refs["key_sums"][...] + _dot(d_scores, query, TN)).astype(dtype)


class _Decays(NamedTuple):
    """Of a chunk of c tokens: W [c c], e [c 1], l [c 1] and the last e [1 1] of `decayed`."""

    within: Array
    entering: Array
    leaving: Array
    across: Array


def _decays(refs, member) -> _Decays:
    total, segment = refs["total"][0, member], refs["segment"][0, member]
    size = total.shape[1]
    shape, (since, kind) = (size, size), (row.reshape(size, 1) for row in (total, segment))
    earlier = lax.broadcasted_iota(jnp.int32, shape, 1) <= lax.broadcasted_iota(jnp.int32, shape, 0)
    never = -jnp.inf
    within = jnp.exp(jnp.where((kind == segment) & earlier, since - total, never))
    end, last = total[:, size - 1 :], segment[:, size - 1 :]
    entering = jnp.exp(jnp.where(kind == 0, since, never))
    leaving = jnp.exp(jnp.where(kind == last, end - since, never))
    return _Decays(within, entering, leaving, jnp.exp(jnp.where(last == 0, end, never)))


def _next(state, key, value, decays):
    """The state after a chunk."""
    return decays.across * state + _dot((key * decays.leaving).astype(key.dtype), value, TN)


def _over(products):
    return jnp.sum(products, axis=1, keepdims=True)


def _dot(a, b, dimensions):
    """In float32, of float32 in full."""
    precision = lax.Precision.HIGHEST if a.dtype == jnp.float32 else lax.Precision.DEFAULT
    return lax.dot_general(a, b, dimensions, precision=precision, preferred_element_type=jnp.float32)
