"""Flash attention over a block map on Hopper GPUs, the backward pass: the weights once more, from the logsumexp.

    by rows    P = 2^(S - L),  dS = P * (dO V^T - D),  dQ = sum_j dS K        D = rowsum(dO * O) - dL
    by keys    the same transposed:  dV = sum_i P^T dO,  dK = sum_i dS^T Q

Dao, FlashAttention-2, 2023, arXiv 2307.08691, alg. 2, in two kernels, so that no sum crosses thread blocks. A step of
the ring is 64 columns of a block: two products of 64 x 64 at a time leave registers for the sums.
"""

import jax
import jax.numpy as jnp
from jax import lax

from arch.kernels import compat
from arch.kernels.block_attention.hopper_logits import logits_of
from arch.kernels.block_attention.hopper_parts import (
    ROWS,
    Launch,
    add_product,
    divide,
    filled,
    product,
    span,
    spread,
    start,
    vector,
)
from arch.kernels.block_attention.rule import Extras, Rule, Tables, column_of, member_of
from arch.kernels.ring import Ring
from arch.kernels.warpgroups import tile


def backward(rule: Rule, query, key, value, extras: Extras, tables: Tables, d_out, logsumexp, delta):
    """(dQ, dK, dV) of d_out [b t n v]; logsumexp in base 2, UNSEEN where a row sees nothing, and D, both [b n t]."""
    arrays = dict(query=query, key=key, value=value, d_out=d_out, logsumexp=logsumexp, delta=delta)
    arrays |= extras._replace(sinks=None)._asdict()
    d_query = _by_rows(rule, arrays | tables.by_rows._asdict())
    return d_query, *_by_keys(rule, arrays | tables.by_keys._asdict())


def _by_rows(rule, arrays):
    pl, plgpu = compat.modules()
    query, key, value = (arrays[name] for name in ("query", "key", "value"))
    launch, dtype, size = rule.launch or Launch(), query.dtype, query.dtype.itemsize
    (b, t, n, h), v, bq, bk = query.shape, value.shape[-1], rule.queries, rule.keys
    readers, parts = bq // ROWS, bk // ROWS
    slots = launch.ring(size * ROWS * (h + v), size * bq * (h + v))

    def kernel(refs):
        ring, thread = Ring(slots, refs["full"], refs["empty"]), lax.axis_index("thread")
        head, batch = lax.axis_index("head"), lax.axis_index("batch")
        lane = head if len(arrays["place"]) > 1 else 0
        row = refs["order"][lane, lax.axis_index("row")]
        begin, partial, end = span(refs, lane, row)
        kv_head = lax.div(head, n // key.shape[2])

        def at(step):
            """The visit of a step, the part of its block, and the first key."""
            visit, part = begin + lax.div(step, parts), lax.rem(step, parts)
            return visit, part, column_of(refs["place"][lane, visit]) * bk + part * ROWS

        def copy():
            def copy_one(i, _):
                keys = pl.ds(pl.multiple_of(at(i)[2], ROWS), ROWS)
                ring.fill(i, *((refs[x].at[batch, keys, kv_head], refs[f"{x}_ring"]) for x in ("key", "value")))

            lax.fori_loop(0, (end - begin) * parts, copy_one, None)
            ring.finish((end - begin) * parts)

        def multiply():
            top = pl.multiple_of(row * bq + thread * ROWS, ROWS)
            mine = pl.ds(top, ROWS)
            for name in ("query", "d_out"):
                arrived = refs["arrived"].at[thread]
                plgpu.copy_gmem_to_smem(refs[name].at[batch, mine, head], refs[f"{name}_tile"].at[thread], arrived)
            plgpu.barrier_wait(refs["arrived"].at[thread])
            queries, d_out = refs["query_tile"].at[thread], refs["d_out_tile"].at[thread]
            logsumexp, delta = (
                spread(vector(refs[name].at[batch, head, mine], 0), (ROWS, ROWS), 0) for name in ("logsumexp", "delta")
            )

            def step(masked, i, sums):
                slot = ring.await_full(i)
                visit, part, first = at(i)
                keys, values = refs["key_ring"].at[slot], refs["value_ring"].at[slot]
                place = dict(batch=batch, head=head, query=top, key=first)
                mask = (refs["flags"][lane, visit], thread * ROWS, part * ROWS) if masked else None
                products = product(queries, keys.transpose((1, 0)), ROWS)
                logits, slope = logits_of(rule, refs, products, place, mask)
                weights = jnp.exp2(logits - logsumexp)
                d_weights = product(d_out, values.transpose((1, 0)), ROWS)
                d_logits = weights * slope * (d_weights - delta)
                sums = add_product(sums, d_logits.astype(dtype), keys, launch.interpret)
                ring.let_go(i)
                return sums

            edges = [0, (partial - begin) * parts, (end - begin) * parts]
            sums = lax.fori_loop(*edges[:2], lambda i, sums: step(False, i, sums), filled((ROWS, h), 0.0))
            sums = lax.fori_loop(*edges[1:], lambda i, sums: step(True, i, sums), sums)
            queries[...] = (rule.scale * sums).astype(dtype)
            plgpu.commit_smem()
            plgpu.copy_smem_to_gmem(queries, refs["d_query"].at[batch, mine, head])

        divide(thread, readers, copy, multiply)

    full, empty = Ring.barriers(slots, copies=2, readers=readers)
    scratch = {
        "query_tile": tile(readers, ROWS, h, dtype=dtype),
        "d_out_tile": tile(readers, ROWS, v, dtype=dtype),
        "key_ring": tile(slots, ROWS, h, dtype=dtype),
        "value_ring": tile(slots, ROWS, v, dtype=dtype),
        "full": full,
        "empty": empty,
        "arrived": plgpu.Barrier(num_arrivals=2, num_barriers=readers),
    }
    out = {"d_query": jax.ShapeDtypeStruct(query.shape, dtype)}
    grid, name = (n, t // bq, b), "block_attention_by_rows"
    return start(name, kernel, out, arrays, scratch, grid=grid, readers=readers, launch=launch)["d_query"]


def _by_keys(rule, arrays):
    pl, plgpu = compat.modules()
    query, key, value = (arrays[name] for name in ("query", "key", "value"))
    launch, dtype, size = rule.launch or Launch(), query.dtype, query.dtype.itemsize
    (b, s, k, h), v, bq, bk = key.shape, value.shape[-1], rule.queries, rule.keys
    readers, group = bk // ROWS, query.shape[2] // k
    together = group if rule.shared else 1  # heads that share the list
    parts = bq // ROWS * together
    slots = launch.ring(size * ROWS * (h + v), size * bk * (h + v))

    def kernel(refs):
        ring, thread = Ring(slots, refs["full"], refs["empty"]), lax.axis_index("thread")
        kv_head, batch = lax.axis_index("head"), lax.axis_index("batch")
        lane = kv_head if len(arrays["place"]) > 1 else 0
        row = refs["order"][lane, lax.axis_index("row")]
        begin, partial, end = span(refs, lane, row)

        def at(step):
            """The visit of a step, its head, the part of its block, and the first query."""
            visit, rest = begin + lax.div(step, parts), lax.rem(step, parts)
            member, part = lax.div(rest, bq // ROWS), lax.rem(rest, bq // ROWS)
            head = kv_head * group + member_of(refs["flags"][lane, visit]) + member
            return visit, head, part, pl.multiple_of(column_of(refs["place"][lane, visit]) * bq + part * ROWS, ROWS)

        def copy():
            def copy_one(i, _):
                _, head, _, first = at(i)
                of_queries = (batch, pl.ds(first, ROWS), head)
                ring.fill(i, *((refs[x].at[of_queries], refs[f"{x}_ring"]) for x in ("query", "d_out")))

            lax.fori_loop(0, (end - begin) * parts, copy_one, None)
            ring.finish((end - begin) * parts)

        def multiply():
            top = pl.multiple_of(row * bk + thread * ROWS, ROWS)
            mine = pl.ds(top, ROWS)
            for name in ("key", "value"):
                arrived = refs["arrived"].at[thread]
                plgpu.copy_gmem_to_smem(refs[name].at[batch, mine, kv_head], refs[f"{name}_tile"].at[thread], arrived)
            plgpu.barrier_wait(refs["arrived"].at[thread])
            keys, values = refs["key_tile"].at[thread], refs["value_tile"].at[thread]

            def step(masked, i, carry):
                key_sums, value_sums = carry
                slot = ring.await_full(i)
                visit, head, part, first = at(i)
                queries, d_out = refs["query_ring"].at[slot], refs["d_out_ring"].at[slot]
                of_queries = batch, head, pl.ds(first, ROWS)
                numbers = lambda name: spread(vector(refs[name].at[of_queries], 1), (ROWS, ROWS), 1)
                place = dict(batch=batch, head=head, query=first, key=top)
                mask = (refs["flags"][lane, visit], thread * ROWS, part * ROWS) if masked else None
                products = product(keys, queries.transpose((1, 0)), ROWS)
                logits, slope = logits_of(rule, refs, products, place, mask, by_keys=True)
                weights = jnp.exp2(logits - numbers("logsumexp"))
                value_sums = add_product(value_sums, weights.astype(dtype), d_out, launch.interpret)
                steep = weights * slope  # one array to keep beside the product, not two
                d_weights = product(values, d_out.transpose((1, 0)), ROWS)
                d_logits = steep * (d_weights - numbers("delta"))
                key_sums = add_product(key_sums, d_logits.astype(dtype), queries, launch.interpret)
                ring.let_go(i)
                return key_sums, value_sums

            edges = [0, (partial - begin) * parts, (end - begin) * parts]
            carry = filled((ROWS, h), 0.0), filled((ROWS, v), 0.0)
            carry = lax.fori_loop(*edges[:2], lambda i, carry: step(False, i, carry), carry)
            key_sums, value_sums = lax.fori_loop(*edges[1:], lambda i, carry: step(True, i, carry), carry)
            keys[...] = (rule.scale * key_sums).astype(dtype)
            values[...] = value_sums.astype(dtype)
            plgpu.commit_smem()
            plgpu.copy_smem_to_gmem(keys, refs["d_key"].at[batch, mine, kv_head])
            plgpu.copy_smem_to_gmem(values, refs["d_value"].at[batch, mine, kv_head])

        divide(thread, readers, copy, multiply)

    full, empty = Ring.barriers(slots, copies=2, readers=readers)
    scratch = {
        "key_tile": tile(readers, ROWS, h, dtype=dtype),
        "value_tile": tile(readers, ROWS, v, dtype=dtype),
        "query_ring": tile(slots, ROWS, h, dtype=dtype),
        "d_out_ring": tile(slots, ROWS, v, dtype=dtype),
        "full": full,
        "empty": empty,
        "arrived": plgpu.Barrier(num_arrivals=2, num_barriers=readers),
    }
    out = {f"d_{name}": jax.ShapeDtypeStruct(array.shape, dtype) for name, array in (("key", key), ("value", value))}
    grid, name = (k, s // bk, b), "block_attention_by_keys"
    found = start(name, kernel, out, arrays, scratch, grid=grid, readers=readers, launch=launch)
    return found["d_key"], found["d_value"]
