"""Decayed linear attention on Hopper GPUs, the backward pass: spans of chunks from the last to the first.

The equations are in `decayed`. Each span goes forward once more, from the state that enters it, and leaves the states
of its chunks in shared memory; then in reverse, with the gradient of the state in shared memory too. Two sums give the
gradient of the log decays,

    d(g_1 + ... + g_i) = q_i . dq_i - k_i . dk_i,    and at a chunk's end also  sum(S' * dS').

A thread block has 64 channels of the values, so that what it finds of queries and keys is a part of a sum.
"""

import jax
import jax.numpy as jnp
from jax import lax

from arch.kernels import compat
from arch.kernels.block_attention.hopper_parts import ROWS, divide, filled, product, start
from arch.kernels.linear_attention.hopper_parts import (
    SLICE,
    Decays,
    Launch,
    float_tile,
    load,
    read,
    rows_copies,
    rows_tiles,
)
from arch.kernels.linear_attention.plan import Plan, Tokens
from arch.kernels.ring import Ring
from arch.kernels.warpgroups import tile


def backward(plan: Plan, tokens: Tokens, entries, d_out, d_last):
    """(gradients of the tokens, of the state before the first)."""
    (b, t, k, h), n, count = tokens.query.shape, tokens.value.shape[2], plan.chunks * plan.spans
    found = _run(plan, tokens, entries, d_out, d_last)
    together = lambda parts: jnp.sum(parts.reshape(b, t, k, -1, h), axis=3, dtype=jnp.float32).astype(parts.dtype)
    ends = jnp.sum(found["ends"], axis=(2, 4))
    d_total = jnp.sum(found["d_total"], axis=2).reshape(b, n, count, ROWS).at[..., -1].add(ends).reshape(b, n, t)
    d_tokens = Tokens(together(found["d_query"]), together(found["d_key"]), found["d_value"], d_total, None)
    return d_tokens, found["d_state"]


def _run(plan, tokens, entries, d_out, d_last):
    pl, plgpu = compat.modules()
    launch, dtype = plan.launch or Launch(), tokens.value.dtype
    (b, t, k, h), (n, v) = tokens.query.shape, tokens.value.shape[2:]
    group, chunks, slots = n // k, plan.chunks, launch.slots or (2 if h == 64 else 1)

    def kernel(refs):
        thread, head, batch = (lax.axis_index(name) for name in ("thread", "head", "batch"))
        slice_ = lax.axis_index("row")
        columns = pl.ds(pl.multiple_of(slice_ * SLICE, SLICE), SLICE)
        both, back = (Ring(slots, refs[f"{name}_full"], refs[f"{name}_empty"]) for name in ("both", "back"))
        rows_of = lambda chunk: pl.ds(pl.multiple_of(chunk * ROWS, ROWS), ROWS)

        def over_spans(body, carry):
            """`carry = body(span, step, carry)` from the last span to the first; steps of `both` before it."""
            turned = lambda s, carry: body(plan.spans - 1 - s, s * 2 * chunks, carry)
            return lax.fori_loop(0, plan.spans, turned, carry)

        def copy():
            def fill_both(span, i, step):
                mine = rows_of(span * chunks + i)
                key = refs["key"].at[batch, mine, lax.div(head, group)]
                parts = {"key": key, "value": refs["value"].at[batch, mine, head, columns]}
                copies = [(part, refs[f"{name}_ring"]) for name, part in parts.items()]
                both.fill(step, *copies, *rows_copies(refs, batch, head, mine))

            def fill_back(span, i, step):
                fill_both(span, i, step)
                mine = rows_of(span * chunks + i)
                query = refs["query"].at[batch, mine, lax.div(head, group)], refs["query_ring"]
                of_out = refs["d_out"].at[batch, mine, head, columns], refs["d_out_ring"]
                back.fill(backs(span, i), query, of_out)

            def over_chunks(span, step, _):
                lax.fori_loop(0, chunks, lambda i, _: fill_both(span, i, step + i), None)
                last = chunks - 1
                lax.fori_loop(0, chunks, lambda i, _: fill_back(span, last - i, step + chunks + i), None)

            over_spans(over_chunks, None)
            both.finish(jnp.int32(2 * chunks * plan.spans))
            back.finish(jnp.int32(chunks * plan.spans))

        def backs(span, i):
            """How many chunks have gone back before this one."""
            return (plan.spans - 1 - span) * chunks + chunks - 1 - i

        def multiply():
            def over_blocks(body, carry=None):
                """`carry = body(rows, carry)` over blocks of the state's rows: a loop needs fewer registers."""
                rows = lambda j: pl.ds(pl.multiple_of(j * ROWS, ROWS), ROWS)
                return lax.fori_loop(0, h // ROWS, lambda j, carry: body(rows(j), carry), carry)

            def forth(i, step):
                slot = both.await_full(step)
                key, value = refs["key_ring"].at[slot], refs["value_ring"].at[slot]
                decays = Decays.read(refs, slot)
                refs["left_tile"][...] = (read(value) * decays.spread("leaving")).astype(dtype)
                plgpu.commit_smem()

                def after(rows, _):
                    written = product(key.at[:, rows].transpose((1, 0)), refs["left_tile"], SLICE)
                    state = decays.across * read(refs["state_tiles"].at[i, rows]) + written
                    refs["state_tiles"].at[i + 1, rows][...] = state.astype(dtype)

                over_blocks(after)
                plgpu.commit_smem()
                both.let_go(step)

            def reverse(span, i, step):
                """The order of what is independent here is the one in which registers suffice."""
                chunk = span * chunks + i
                slot, of_back = both.await_full(step), back.await_full(backs(span, i))
                key, value = refs["key_ring"].at[slot], refs["value_ring"].at[slot]
                query, d_out = refs["query_ring"].at[of_back], refs["d_out_ring"].at[of_back]
                state, d_states = refs["state_tiles"].at[i], refs["d_state_tile"]
                plgpu.wait_smem_to_gmem(0, wait_read_only=True)

                def begin(rows, _):
                    d_after = read(refs["float_tile"].at[rows])
                    d_states.at[rows][...] = d_after.astype(dtype)
                    after = read(refs["state_tiles"].at[i + 1, rows])
                    refs["ends_tile"].at[rows][...] = jnp.sum(after * d_after, axis=1)

                over_blocks(begin)
                decays = Decays.read(refs, slot)
                weights = product(query, key.transpose((1, 0)), ROWS) * decays.within
                refs["weights_tile"][...] = weights.astype(dtype)
                d_scores = product(d_out, value.transpose((1, 0)), ROWS) * decays.within
                refs["d_scores_tile"][...] = d_scores.astype(dtype)
                scaled = lambda ref, name: (read(ref) * decays.spread(name)).astype(dtype)
                refs["left_tile"][...] = scaled(value, "leaving")
                refs["enter_tile"][...] = scaled(d_out, "entering")
                plgpu.commit_smem()

                pairs, transposed = refs["d_scores_tile"], refs["d_scores_tile"].transpose((1, 0))

                def of_queries(rows, total):
                    factors = (pairs, key.at[:, rows]), (refs["enter_tile"], state.at[rows].transpose((1, 0)))
                    d_query = _sum_of_products(*factors)
                    refs["d_query_tile"].at[:, rows][...] = d_query.astype(dtype)
                    return total + jnp.sum(d_query * read(query.at[:, rows]), axis=1)

                def of_keys(rows, total):
                    factors = (transposed, query.at[:, rows]), (refs["left_tile"], d_states.at[rows].transpose((1, 0)))
                    d_key = _sum_of_products(*factors)
                    refs["d_key_tile"].at[:, rows][...] = d_key.astype(dtype)
                    return total - jnp.sum(d_key * read(key.at[:, rows]), axis=1)

                def end(rows, _):
                    entered = product(query.at[:, rows].transpose((1, 0)), refs["enter_tile"], SLICE)
                    d_after = refs["float_tile"].at[rows]
                    d_after[...] = decays.across * read(d_after) + entered

                total = over_blocks(of_queries, filled((ROWS,), 0.0))
                refs["total_tile"][...] = over_blocks(of_keys, total)
                over_blocks(end)
                d_value = product(key, d_states, SLICE) * decays.spread("leaving")
                d_value += product(refs["weights_tile"].transpose((1, 0)), d_out, SLICE)
                refs["d_value_tile"][...] = d_value.astype(dtype)
                plgpu.commit_smem()
                mine = rows_of(chunk)
                places = {
                    "d_value": refs["d_value"].at[batch, mine, head, columns],
                    "d_query": refs["d_query"].at[batch, mine, head, slice_],
                    "d_key": refs["d_key"].at[batch, mine, head, slice_],
                    "total": refs["d_total"].at[batch, head, slice_, mine],
                    "ends": refs["ends"].at[batch, head, slice_, chunk],
                }
                for name, place in places.items():
                    plgpu.copy_smem_to_gmem(refs[f"{name}_tile"], place)
                both.let_go(step)
                back.let_go(backs(span, i))

            def over_chunks(span, step, _):
                def enter(rows, _):
                    entering = load(refs["entries"].at[batch, head, span, rows, columns])
                    refs["state_tiles"].at[0, rows][...] = entering.astype(dtype)

                over_blocks(enter)
                lax.fori_loop(0, chunks, lambda i, _: forth(i, step + i), None)
                last = chunks - 1
                lax.fori_loop(0, chunks, lambda i, _: reverse(span, last - i, step + chunks + i), None)

            def enter(rows, _):
                refs["float_tile"].at[rows][...] = load(refs["d_last"].at[batch, head, rows, columns])

            over_blocks(enter)
            over_spans(over_chunks, None)
            plgpu.commit_smem()
            plgpu.copy_smem_to_gmem(refs["float_tile"], refs["d_state"].at[batch, head, :, columns])

        divide(thread, 1, copy, multiply, registers=256)

    shape = jax.ShapeDtypeStruct
    queries, slices = shape((b, t, n, v // SLICE, h), dtype), v // SLICE
    results = {
        "d_query": queries,
        "d_key": queries,
        "d_value": shape(tokens.value.shape, dtype),
        "d_total": shape((b, n, slices, t), jnp.float32),
        "ends": shape((b, n, slices, chunks * plan.spans, h), jnp.float32),
        "d_state": shape(d_last.shape, jnp.float32),
    }
    memory = {f"{name}_ring": tile(slots, ROWS, h, dtype=dtype) for name in ("query", "key")}
    memory |= {f"{name}_ring": tile(slots, ROWS, SLICE, dtype=dtype) for name in ("value", "d_out")}
    memory |= {
        **rows_tiles(slots),
        "state_tiles": tile(chunks + 1, h, SLICE, dtype=dtype),
        "d_state_tile": tile(h, SLICE, dtype=dtype),
    }
    memory |= {f"{name}_tile": tile(ROWS, SLICE, dtype=dtype) for name in ("left", "enter", "weights", "d_scores")}
    memory |= {f"{name}_tile": tile(ROWS, h, dtype=dtype) for name in ("d_query", "d_key")}
    memory |= {
        "d_value_tile": tile(ROWS, SLICE, dtype=dtype),
        "total_tile": plgpu.SMEM((ROWS,), jnp.float32),
        "ends_tile": plgpu.SMEM((h,), jnp.float32),
        "float_tile": float_tile(h),
    }
    memory |= dict(zip(("both_full", "both_empty"), Ring.barriers(slots, copies=6, readers=1)))
    memory |= dict(zip(("back_full", "back_empty"), Ring.barriers(slots, copies=2, readers=1)))
    operands = tokens._asdict() | {"entries": entries, "d_out": d_out, "d_last": d_last}
    grid, name = (n, slices, b), "decayed_attention_backward"
    return start(name, kernel, results, operands, memory, grid=grid, readers=1, launch=launch)


def _sum_of_products(*factors):
    """[64 64] of pairs of tiles in shared memory."""
    pl, plgpu = compat.modules()

    def multiply(sums):
        for left, right in factors:
            plgpu.wgmma(sums, left, right)
        return sums[...]

    return pl.run_scoped(multiply, plgpu.ACC((ROWS, ROWS)))
