"""The loops of attention over blocks, forward and backward: see `arch.ops.sparse_attention` for the equations.

A step gathers, for each of its c blocks on one side, the w blocks of that block's list on the other side, and
multiplies them as one matrix: [r h] by [h w bk] forward, and backward [bk h] by [h w r], in which all products but that
of dQ have their operands as they lie. Backward steps add to dQ where their queries stand.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from arch.ops.attention import MASKED
from arch.ops.block_layout import Layout
from arch.ops.patterns.schedule import Loop, schedule

LEAST = -1e30
"""Where the running maximum starts, far above `MASKED`: a row that has seen nothing sums nothing."""
STEP = 1 << 20
"""Logits that a step computes, about."""


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def attend_blocks(rule, query, key, value, segments, operands, sinks):
    """(result [b t n v], logsumexp [b n t]); `rule` is (layout, scale, soft cap, bias), the rest as in
    `arch.ops.sparse_attention.sparse_attend`, with segments ([b t], [b s]) or None."""
    return _forward(rule, query, key, value, segments, operands, sinks)[0]


def _forward(rule, query, key, value, segments, operands, sinks):
    layout = rule[0]
    queries, keys, values = layout.queries(query), layout.keys(key), layout.keys(value)
    parts = _segments(layout, segments)
    b, k, _, r, _ = queries.shape
    wide = jnp.promote_types(query.dtype, jnp.float32)
    results = []
    for loop in schedule(layout.map.lists, blocks=max(1, STEP // (b * layout.area))):
        head, block, heads = _places(loop, layout.sizes[0])
        own = layout.query_blocks(head, block) if layout.own else block
        others = layout.key_blocks(heads, loop.blocks) if layout.own else loop.blocks
        tables = tuple(map(jnp.asarray, (loop.blocks, others, loop.kind)))
        steps = tuple(map(jnp.asarray, (head, block, own, loop.begin[:-1], loop.begin[1:])))

        def step(_, at, tables=tables, single=loop.single):
            head, block, own, begin, end = at
            q = jnp.take(queries, own, axis=2)

            def meet(part, state):
                top, total, sums = state
                blocks, others, kind = (table[part] for table in tables)
                gathered = (_side_by_side(jnp.take(array, others, axis=2)) for array in (keys, values))
                k_w, v_w = gathered
                logits = _product("bkcrh,bkcsh->bkcrs", q, k_w)
                logits, _ = _logits(rule, logits, kind, head, block[:, None], blocks, parts, operands, turned=False)
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
    return (out, logsumexp), (query, key, value, segments, operands, sinks, out, logsumexp)


def _backward(rule, residuals, cotangents):
    layout, scale = rule[0], rule[1]
    query, key, value, segments, operands, sinks, out, logsumexp = residuals
    d_out, d_logsumexp = cotangents
    normaliser = jnp.where(logsumexp > -jnp.inf, logsumexp, -LEAST).swapaxes(1, 2)  # [b t n]
    inner = jnp.sum(d_out.astype(normaliser.dtype) * out, axis=-1) - d_logsumexp.swapaxes(1, 2)
    queries, keys, values = layout.queries(query), layout.keys(key), layout.keys(value)
    d_outs, normalisers, inners = layout.queries(d_out), layout.queries(normaliser), layout.queries(inner)
    parts = _segments(layout, segments)
    b, k, i, r, h = queries.shape
    bk, wide = layout.map.block[1], normaliser.dtype
    carry = jnp.zeros((b, k, i, h, r), wide), jax.tree.map(jnp.zeros_like, operands)
    results = []
    for loop in schedule(layout.map.transposed().lists, blocks=max(1, STEP // (b * layout.area))):
        head, block, heads = _places(loop, layout.sizes[1])
        own = layout.key_blocks(head, block) if layout.own else block
        others = layout.query_blocks(heads, loop.blocks) if layout.own else loop.blocks
        tables = tuple(map(jnp.asarray, (loop.blocks, others, loop.kind)))
        steps = tuple(map(jnp.asarray, (head, block, own, loop.begin[:-1], loop.begin[1:])))

        def step(carry, at, tables=tables, single=loop.single):
            head, block, own, begin, end = at
            k_c, v_c = jnp.take(keys, own, axis=2), jnp.take(values, own, axis=2)

            def meet(part, state):
                d_key, d_value, d_query, d_operands = state
                blocks, others, kind = (table[part] for table in tables)
                gather = lambda array: jnp.take(array, others, axis=2)
                q, d_o = _side_by_side(gather(queries)), _side_by_side(gather(d_outs))
                over_keys = lambda array: gather(array).reshape(b, k, len(own), 1, -1)
                products = _product("bkcsh,bkcrh->bkcsr", k_c, q)

                def biased(operands):
                    return _logits(rule, products, kind, head, blocks, block[:, None], parts, operands, turned=True)

                logits, d_bias, slope = jax.vjp(biased, operands, has_aux=True)
                weights = jnp.exp(logits - over_keys(normalisers))
                d_logits = weights * (_product("bkcsv,bkcrv->bkcsr", v_c, d_o) - over_keys(inners))
                d_operands = jax.tree.map(jnp.add, d_operands, d_bias(d_logits)[0])
                d_logits = d_logits if slope is None else d_logits * slope
                d_value += _product("bkcsr,bkcrv->bkcsv", weights, d_o)
                d_key += _product("bkcsr,bkcrh->bkcsh", d_logits, q)
                more = _product("bkcsh,bkcsr->bkchr", k_c, d_logits).reshape(b, k, len(own), h, -1, r)
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


def _segments(layout: Layout, segments):
    """Those of blocks, ([b i bq], [b j bk])."""
    if segments is None:
        return None
    pads = ((array, -array.shape[1] % size, size) for array, size in zip(segments, layout.map.block))
    return tuple(jnp.pad(array, ((0, 0), (0, pad))).reshape(len(array), -1, size) for array, pad, size in pads)


def _side_by_side(gathered):
    """[b k c w r h] -> [b k c (w r) h]."""
    return gathered.reshape(*gathered.shape[:3], -1, gathered.shape[-1])


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


def _logits(rule, products, kind, head, query_blocks, key_blocks, segments, operands, *, turned: bool):
    """The logits that c blocks' products with u blocks of queries and w of keys are, and the soft cap's slope or None.

    Args:
      rule: of the call.
      products: [b k c (g bq) (w bk)] where u is 1, or turned [b k c bk (u g bq)] where w is 1.
      kind: [c (u w)] of the blocks.
      head: [c] of the query, where heads have maps of their own.
      query_blocks: [c u] their indices in the row.
      key_blocks: [c w].
      segments: ([b i bq], [b j bk]) or None.
      operands: the bias's.
      turned: see `products`.
    """
    layout, scale, soft_cap, bias = rule
    (bq, bk), (c, u), w, g = layout.map.block, query_blocks.shape, key_blocks.shape[1], layout.group
    logits, slope = products * scale, None
    if soft_cap:
        bounded = jnp.tanh(logits / soft_cap)
        logits, slope = soft_cap * bounded, 1.0 - bounded * bounded
    shape = logits.shape[:2] + ((c, bk, u, g, bq) if turned else (c, g, bq, w, bk))

    def spread(array):
        """[b k c u g bq w bk] with the axes of the logits."""
        return jnp.moveaxis(array, 7, 3)[..., 0] if turned else array[:, :, :, 0]

    logits = logits.reshape(shape)
    if bias is not None:
        logits += spread(_bias(layout, bias, head, query_blocks, key_blocks, operands)[None])
    ends = np.ones((1, bq, bk), bool)
    tiles = jnp.asarray(np.concatenate([ends, layout.map.masks, ~ends]))[kind]  # the last one, -1, shows nothing
    mask = tiles.reshape(c, u, w, bq, bk).swapaxes(2, 3)[None, None, :, :, None]
    if segments is not None:
        same = segments[0][:, query_blocks][..., None, None] == segments[1][:, key_blocks][:, :, None, None]
        mask = mask & same[:, None, :, :, None]
    return jnp.where(spread(mask), logits, MASKED).reshape(products.shape), slope


def _bias(layout: Layout, bias, head, query_blocks, key_blocks, operands):
    """[k c u g bq w bk]."""
    (bq, bk), (c, u), w = layout.map.block, query_blocks.shape, key_blocks.shape[1]
    places = ((query_blocks, bq), (key_blocks, bk))
    values = bias(operands, *((blocks[..., None] * size + jnp.arange(size)).reshape(c, -1) for blocks, size in places))
    values = jnp.broadcast_to(values, (c, *values.shape[1:]))
    if layout.own:
        values = jnp.take_along_axis(values, head[:, None, None, None], axis=1)
    return values.reshape(c, -1, layout.group, u, bq, w, bk).transpose(1, 0, 3, 2, 4, 5, 6)
