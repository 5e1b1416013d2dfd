"""The loops of attention over blocks, forward and backward: see `arch.ops.sparse_attention` for the equations.

A step gathers, for each of its c blocks on one side, the w blocks of that block's list on the other side, and
multiplies them as one matrix: [r h] by [h w bk] forward, and backward [bk h] by [h w r]. What is gathered for the
logits lies with channels in rows, as their product reads it. Backward steps add to dQ where their queries stand.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from arch.ops.block_logits import logits_of, tiles_of
from arch.ops.patterns.schedule import Loop, schedule

LEAST = -1e30
"""Where the running maximum starts, far above `MASKED`: a row that has seen nothing sums nothing."""
STEP = 1 << 18
"""Logits that a step computes, about: so few that they stay in a processor's cache."""


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def attend_blocks(rule, query, key, value, rows, operands, sinks):
    """(result [b t n v], logsumexp [b n t]); `rule` is (layout, scale, soft cap, bias), `rows` the tokens' numbers
    (`arch.ops.block_logits.Rows`), the rest as in `arch.ops.sparse_attention.sparse_attend`."""
    return _forward(rule, query, key, value, rows, operands, sinks)[0]


def _forward(rule, query, key, value, rows, operands, sinks):
    layout = rule[0]
    queries, keys, values = layout.queries(query), layout.keys(key).swapaxes(3, 4), layout.keys(value)
    parts = rows.blocks(layout)
    b, k, _, r, _ = queries.shape
    wide = jnp.promote_types(query.dtype, jnp.float32)
    results = []
    for loop in schedule(layout.map.lists, blocks=max(1, STEP // (b * layout.area))):
        head, block, heads = _places(loop, layout.sizes[0])
        own = layout.query_blocks(head, block) if layout.own else block
        others = layout.key_blocks(heads, loop.blocks) if layout.own else loop.blocks
        tables = tuple(map(jnp.asarray, (loop.blocks, others, loop.kind)))
        steps = tuple(map(jnp.asarray, (head, block, own, loop.begin[:-1], loop.begin[1:])))
        tiles = tiles_of(layout, loop, turned=False)

        def step(_, at, tables=tables, tiles=tiles, single=loop.single):
            head, block, own, begin, end = at
            q = _take(queries, own)

            def meet(part, state):
                top, total, sums = state
                blocks, others, kind = (table[part] for table in tables)
                k_t, v_w = _side_by_side(_take(keys, others)), _one_by_one(_take(values, others))
                products = _product("bkcrh,bkchs->bkcrs", q, k_t)
                at = kind, head, block[:, None], blocks
                logits, _ = logits_of(rule, products, *at, parts, tiles, operands, turned=False)
                higher = jnp.maximum(top, jnp.max(logits, axis=-1))
                weights, shrunk = jnp.exp(logits - higher[..., None]), jnp.exp(top - higher)
                sums = sums * shrunk[..., None] + _product("bkcrs,bkcsv->bkcrv", weights.astype(query.dtype), v_w)
                return higher, total * shrunk + jnp.sum(weights, axis=-1), sums

            shape = (b, k, len(own), r)
            state = jnp.full(shape, LEAST, wide), jnp.zeros(shape, wide), jnp.zeros((*shape, value.shape[-1]), wide)
            state = meet(begin, state) if single else lax.fori_loop(begin, end, meet, state)
            return None, tuple(jnp.moveaxis(array, 2, 0) for array in state)

        results.append((loop.rows, lax.scan(step, None, steps)[1]))
    top, total, sums = (layout.rows(array) for array in _in_order(results))
    if sinks is not None:
        higher = jnp.maximum(top, sinks)
        shrunk = jnp.exp(top - higher)
        top, total, sums = higher, total * shrunk + jnp.exp(sinks - higher), sums * shrunk[..., None]
    some = total > 0
    safe = jnp.where(some, total, 1.0)
    out = (sums / safe[..., None]).astype(query.dtype)
    logsumexp = jnp.where(some, top + jnp.log(safe), -jnp.inf).swapaxes(1, 2)
    return (out, logsumexp), (query, key, value, rows, operands, sinks, out, logsumexp)


def _backward(rule, residuals, cotangents):
    layout, scale = rule[0], rule[1]
    query, key, value, rows, operands, sinks, out, logsumexp = residuals
    d_out, d_logsumexp = cotangents
    normaliser = jnp.where(logsumexp > -jnp.inf, logsumexp, -LEAST).swapaxes(1, 2)  # [b t n]
    inner = jnp.sum(d_out.astype(normaliser.dtype) * out, axis=-1) - d_logsumexp.swapaxes(1, 2)
    keys, values = layout.keys(key), layout.keys(value)
    queries, d_outs = (layout.queries(array).swapaxes(3, 4) for array in (query, d_out))
    normalisers, inners = layout.queries(normaliser), layout.queries(inner)
    parts = rows.blocks(layout)
    b, k, i, h, r = queries.shape
    bk, wide = layout.map.block[1], normaliser.dtype
    carry = jnp.zeros((b, k, i, h, r), wide), jax.tree.map(jnp.zeros_like, operands)
    results = []
    for loop in schedule(layout.map.transposed().lists, blocks=max(1, STEP // (b * layout.area))):
        head, block, heads = _places(loop, layout.sizes[1])
        own = layout.key_blocks(head, block) if layout.own else block
        others = layout.query_blocks(heads, loop.blocks) if layout.own else loop.blocks
        tables = tuple(map(jnp.asarray, (loop.blocks, others, loop.kind)))
        steps = tuple(map(jnp.asarray, (head, block, own, loop.begin[:-1], loop.begin[1:])))
        tiles = tiles_of(layout, loop, turned=True)

        def step(carry, at, tables=tables, tiles=tiles, single=loop.single):
            head, block, own, begin, end = at
            k_c, v_c = _take(keys, own), _take(values, own)

            def meet(part, state):
                d_key, d_value, d_query, d_operands = state
                blocks, others, kind = (table[part] for table in tables)
                q_t, d_o_t = (_side_by_side(_take(array, others)) for array in (queries, d_outs))
                over_keys = lambda array: _take(array, others).reshape(b, k, len(own), 1, -1)
                products = _product("bkcsh,bkchr->bkcsr", k_c, q_t)

                def biased(operands):
                    at = kind, head, blocks, block[:, None]
                    return logits_of(rule, products, *at, parts, tiles, operands, turned=True)

                logits, d_bias, slope = jax.vjp(biased, operands, has_aux=True)
                weights = jnp.exp(logits - over_keys(normalisers))
                d_logits = weights * (_product("bkcsv,bkcvr->bkcsr", v_c, d_o_t) - over_keys(inners))
                d_operands = jax.tree.map(jnp.add, d_operands, d_bias(d_logits)[0])
                d_logits = d_logits if slope is None else d_logits * slope
                d_value += _product("bkcsr,bkcvr->bkcsv", weights, d_o_t)
                d_key += _product("bkcsr,bkchr->bkcsh", d_logits, q_t)
                more = _product("bkchs,bkcsr->bkchr", k_c.swapaxes(3, 4), d_logits).reshape(b, k, len(own), h, -1, r)
                d_query = d_query.at[:, :, others].add(jnp.moveaxis(more, 4, 3))
                return d_key, d_value, d_query, d_operands

            shape = (b, k, len(own), bk)
            state = jnp.zeros((*shape, h), wide), jnp.zeros((*shape, value.shape[-1]), wide), *carry
            state = meet(begin, state) if single else lax.fori_loop(begin, end, meet, state)
            return state[2:], tuple(jnp.moveaxis(array, 2, 0) for array in state[:2])

        carry, found = lax.scan(step, carry, steps)
        results.append((loop.rows, found))
    d_key, d_value = (layout.key_rows(array) for array in _in_order(results))
    d_query = layout.rows(carry[0].swapaxes(3, 4))
    d_sinks = None if sinks is None else -jnp.sum(jnp.exp(sinks - normaliser) * inner, axis=(0, 1)).astype(sinks.dtype)
    gradients = scale * d_query, scale * d_key, d_value
    return *(array.astype(query.dtype) for array in gradients), None, carry[1], d_sinks


attend_blocks.defvjp(_forward, _backward)


def _places(loop: Loop, size: int):
    """(head, block) of a loop's rows, [steps c], and the heads of its parts' rows, [parts c 1]."""
    head, block = (part.astype(np.int32) for part in np.divmod(loop.rows, size))
    return head, block, np.repeat(head, np.diff(loop.begin), axis=0)[..., None]


def _take(array, blocks):
    """Blocks [c ...] of an array [b k i ...]: [b k c ...]."""
    return jnp.take(array, blocks, axis=2, mode="clip")


def _one_by_one(gathered):
    """[b k c w s h] -> [b k c (w s) h]."""
    return gathered.reshape(*gathered.shape[:3], -1, gathered.shape[-1])


def _side_by_side(gathered):
    """[b k c w h s] -> [b k c h (w s)]."""
    gathered = gathered.swapaxes(3, 4)
    return gathered.reshape(*gathered.shape[:4], -1)


def _in_order(results):
    """From each loop's rows [steps c] and arrays [steps c b k ...], the arrays [b k rows ...]."""
    rows = np.concatenate([rows.reshape(-1) for rows, _ in results])
    first = np.unique(rows, return_index=True)[1]
    for arrays in zip(*(arrays for _, arrays in results)):
        flat = jnp.concatenate([array.reshape(-1, *array.shape[2:]) for array in arrays])
        yield jnp.moveaxis(flat if np.array_equal(first, np.arange(len(flat))) else flat[first], 0, 2)


def _product(equation: str, *arrays):
    """Of arrays in the first one's dtype, accumulated and returned in float32 or wider."""
    dtype = arrays[0].dtype
    wide = jnp.promote_types(dtype, jnp.float32)
    return jnp.einsum(equation, *(array.astype(dtype) for array in arrays), preferred_element_type=wide)
