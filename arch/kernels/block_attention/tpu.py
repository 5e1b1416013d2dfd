"""Flash attention over a block map on TPU: one grid step for each visit, and none for an empty block.

    forward    S = Q K^T,  m' = max(m, rowmax S),  P = 2^(S - m'),  c = 2^(m - m'),  l' = c l + rowsum P,  O' = cO + PV
    by rows    P = 2^(S - L),  dS = P * (dO V^T - D),  dQ = sum_j dS K                      D = rowsum(dO * O) - dL
    by keys    the same transposed:  dV = sum_i P^T dO,  dK = sum_i dS^T Q

Dao, FlashAttention-2, 2023, arXiv 2307.08691, alg. 1 and 2. The list of visits lies in scalar memory before the kernel
starts (`pltpu.PrefetchScalarGridSpec`), and tells the copies which block of keys, and which mask, comes next; a block
that is the one before is not copied again. Sums stay in vector memory until a row's last visit writes them. All arrays
here are [b heads length channels], whole blocks long.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from arch.kernels.block_attention.rule import LEAST, LOG2E, MASKED, Extras, Rule, Tables
from arch.kernels.block_attention.tpu_grid import Grid
from arch.kernels.block_attention.visits import FIRST, LAST

DTYPES = (jnp.dtype(jnp.float32), jnp.dtype(jnp.bfloat16))
HEADS_FIRST = True
LANES, BITS = 128, 32
NT, NN = (((1,), (1,)), ((), ())), (((1,), (0,)), ((), ()))


def misfit(dtype, channels: tuple[int, int], block: tuple[int, int]) -> str:
    """Why the kernels do not take operands of this dtype, with blocks of so many queries and keys; '' if they do."""
    if dtype not in DTYPES:
        return f"query.dtype={dtype} must be one of float32, bfloat16"
    if any(size % LANES for size in block):
        return f"{block=} must be multiples of {LANES}"
    return ""


def stored(masks: np.ndarray) -> np.ndarray:
    """int32 [u rows/32 columns] of bool [u rows columns]: row 32 i + j is bit j of word i."""
    u, rows, columns = masks.shape
    bits = masks.reshape(u, rows // BITS, BITS, columns) << np.arange(BITS, dtype=np.uint32)[:, None]
    return np.bitwise_or.reduce(bits, axis=2).view(np.int32)


def _seen(words):
    """The mask [rows columns] of its words."""
    count, columns = words.shape
    shape = count * BITS, columns
    spread = jnp.broadcast_to(words[:, None], (count, BITS, columns)).reshape(shape)
    return lax.shift_right_logical(spread, lax.broadcasted_iota(jnp.int32, shape, 0) & (BITS - 1)) & 1 != 0


def forward(rule: Rule, query, key, value, extras: Extras, tables: Tables):
    """(out [b n t v], logsumexp [b n t] in base e) of query [b n t h], key [b k s h], value [b k s v]."""
    b, n, t, _ = query.shape
    v, bq = value.shape[-1], rule.queries
    grid = Grid(rule, query, key, tables.by_rows)
    operands = grid.operands(query, key, value, extras)
    if extras.sinks is not None:
        operands["sinks"] = extras.sinks, grid.scalars()
    results = {
        "out": (jax.ShapeDtypeStruct((b, n, t, v), query.dtype), grid.queries(v)),
        "logsumexp": (jax.ShapeDtypeStruct((b, n, 1, t), jnp.float32), grid.query_row()),
    }
    scratch = {"top": (bq, 1), "total": (bq, 1), "sums": (bq, v)}
    out, logsumexp = grid.run("block_attention", _forward, operands, results, scratch, products=2)
    return out, logsumexp[:, :, 0]


def _forward(step, rule, refs):
    @step.when(FIRST)
    def _():
        seen = "sinks" in refs
        refs["top"][...] = jnp.full_like(refs["top"], refs["sinks"][step.head] * LOG2E if seen else LEAST)
        refs["total"][...] = jnp.full_like(refs["total"], float(seen))
        refs["sums"][...] = jnp.zeros_like(refs["sums"])

    @step.visit
    def _(masked):
        logits, _ = _logits(step, rule, refs, masked)
        value = refs["value"][0, 0]
        top = jnp.maximum(refs["top"][...], jnp.max(logits, axis=1, keepdims=True))
        weights, shrink = jnp.exp2(logits - top), jnp.exp2(refs["top"][...] - top)
        refs["top"][...] = top
        refs["total"][...] = refs["total"][...] * shrink + jnp.sum(weights, axis=1, keepdims=True)
        refs["sums"][...] = refs["sums"][...] * shrink + _dot(weights.astype(value.dtype), value, NN)

    @step.when(LAST)
    def _():
        total = refs["total"][...]
        none = total == 0.0
        refs["out"][0, 0] = (refs["sums"][...] / jnp.where(none, 1.0, total)).astype(refs["out"].dtype)
        natural = (refs["top"][...] + jnp.log2(jnp.where(none, 1.0, total))) / LOG2E
        refs["logsumexp"][0, 0] = jnp.where(none, -jnp.inf, natural).reshape(1, rule.queries)


def backward(rule: Rule, query, key, value, extras: Extras, tables: Tables, d_out, logsumexp, delta):
    """(dQ, dK, dV) of d_out [b n t v]; logsumexp in base 2, UNSEEN where a row sees nothing, and D, both [b n t]."""
    rows = logsumexp[:, :, None], delta[:, :, None]
    by_rows = Grid(rule, query, key, tables.by_rows)
    by_keys = Grid(rule, query, key, tables.by_keys, by_keys=True)
    found = []
    for grid in (by_rows, by_keys):
        operands = grid.operands(query, key, value, extras)
        operands["d_out"] = d_out, grid.queries(d_out.shape[-1])
        operands |= {name: (array, grid.query_row()) for name, array in zip(("logsumexp", "delta"), rows)}
        like = lambda array, spec: (jax.ShapeDtypeStruct(array.shape, array.dtype), spec(array.shape[-1]))
        if grid.by_keys:
            results = {"d_key": like(key, grid.keys), "d_value": like(value, grid.keys)}
            scratch = {"key_sums": (rule.keys, key.shape[-1]), "value_sums": (rule.keys, value.shape[-1])}
            found += grid.run("block_attention_by_keys", _by_keys, operands, results, scratch, products=4)
        else:
            column = (rule.queries, 1)
            scratch = {"sums": (rule.queries, query.shape[-1]), "logsumexp_column": column, "delta_column": column}
            results = {"d_query": like(query, grid.queries)}
            found += grid.run("block_attention_by_rows", _by_rows, operands, results, scratch, products=3)
    return tuple(found)


def _by_rows(step, rule, refs):
    @step.when(FIRST)
    def _():
        refs["sums"][...] = jnp.zeros_like(refs["sums"])
        for name in ("logsumexp", "delta"):
            refs[f"{name}_column"][...] = refs[name][0, 0].reshape(rule.queries, 1)

    @step.visit
    def _(masked):
        logits, slope = _logits(step, rule, refs, masked)
        weights = jnp.exp2(logits - refs["logsumexp_column"][...])
        d_weights = _dot(refs["d_out"][0, 0], refs["value"][0, 0], NT)
        d_logits = weights * slope * (d_weights - refs["delta_column"][...])
        key = refs["key"][0, 0]
        refs["sums"][...] += _dot(d_logits.astype(key.dtype), key, NN)

    @step.when(LAST)
    def _():
        refs["d_query"][0, 0] = (rule.scale * refs["sums"][...]).astype(refs["d_query"].dtype)


def _by_keys(step, rule, refs):
    @step.when(FIRST)
    def _():
        for name in ("key_sums", "value_sums"):
            refs[name][...] = jnp.zeros_like(refs[name])

    @step.visit
    def _(masked):
        logits, slope = _logits(step, rule, refs, masked)
        weights = jnp.exp2(logits - refs["logsumexp"][0, 0])
        query, d_out = refs["query"][0, 0], refs["d_out"][0, 0]
        d_weights = _dot(refs["value"][0, 0], d_out, NT)
        d_logits = weights * slope * (d_weights - refs["delta"][0, 0])
        refs["value_sums"][...] += _dot(weights.astype(d_out.dtype), d_out, NN)
        refs["key_sums"][...] += _dot(d_logits.astype(query.dtype), query, NN)

    @step.when(LAST)
    def _():
        refs["d_key"][0, 0] = (rule.scale * refs["key_sums"][...]).astype(refs["d_key"].dtype)
        refs["d_value"][0, 0] = refs["value_sums"][...].astype(refs["d_value"].dtype)


def _dot(a, b, dimensions):
    """In float32, of float32 in full."""
    precision = lax.Precision.HIGHEST if a.dtype == jnp.float32 else lax.Precision.DEFAULT
    return lax.dot_general(a, b, dimensions, precision=precision, preferred_element_type=jnp.float32)


def _logits(step, rule, refs, masked):
    """[bq bk] of this visit in base 2, or [bk bq] by keys; and their slope, see `Rule.logits`."""
    query, key = refs["query"][0, 0], refs["key"][0, 0]
    logits, slope = rule.logits(_dot(key, query, NT) if step.by_keys else _dot(query, key, NT))
    along_queries = 1 if step.by_keys else 0
    if "slopes" in refs:
        place = lambda first, axis: first + lax.broadcasted_iota(jnp.int32, logits.shape, axis)
        query_place = place(step.query_block * rule.queries, along_queries)
        key_place = place(step.key_block * rule.keys, 1 - along_queries)
        distance = jnp.abs(query_place - key_place).astype(jnp.float32)
        logits -= refs["slopes"][step.head] * LOG2E * distance
    if "query_segments" in refs:
        of_queries, of_keys = refs["query_segments"][0], refs["key_segments"][0]
        if step.by_keys:
            of_keys = of_keys.reshape(rule.keys, 1)
        else:
            of_queries = of_queries.reshape(rule.queries, 1)
        logits = jnp.where(of_queries == of_keys, logits, MASKED)
    if masked:
        logits = jnp.where(_seen(refs["masks"][0]), logits, MASKED)
    return logits, slope
