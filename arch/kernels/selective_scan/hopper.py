"""The selective scan on Hopper GPUs: a thread has a few channels and states, and goes over a row's tokens by chunks.

The equations are in `scan`, where numbers lie in `hopper_parts`, the way of chunks in `arch.kernels.lanes`. In the
backward pass a chunk goes forward once more and leaves, for each GROUP tokens, the state that enters them; then each
group, the last one first, goes forward and, with its states in registers, in reverse. Sums over channels are taken of
each warp's ones at each token, and of the four warps' at the end of a chunk.
"""

import jax
import jax.numpy as jnp
from jax import lax

from arch.kernels import compat
from arch.kernels.lanes import Launch, start
from arch.kernels.selective_scan.hopper_parts import (
    LOG2E,
    MULTIPLE,
    WARPS,
    Block,
    Rows,
    in_rows,
    load,
    of_channels,
    of_states,
    states_first,
    states_last,
    width,
)
from arch.typing import Array

DTYPES = (jnp.dtype(jnp.float32), jnp.dtype(jnp.bfloat16))
MOST_STATES = 48
"""Of more, the backward pass would spill."""
MOST_CHUNK = 16
GROUP = 4
"""Tokens whose steps are unrolled."""
TOKENS = "x", "delta", "B", "C", "forget"


def misfit(dtype, states: int) -> str:
    """Why the kernels do not take x of this dtype, and so many states of a channel; '' if they do."""
    if dtype not in DTYPES:
        return f"x.dtype={dtype} must be one of float32, bfloat16"
    return f"{states=} of a channel must be at most {MOST_STATES}" if states > MOST_STATES else ""


def whole(length: int, channels: int, states: int) -> tuple[int, int, int]:
    """Tokens of a chunk, channels of a block, and states, whose multiples the kernels want."""
    del channels
    return min(MOST_CHUNK, length + -length % 8), WARPS * width(states + -states % MULTIPLE), MULTIPLE


def forward(launch, tokens, state: Array):
    """(y like x, last state [b n f], the states that enter each chunk [b l f/w w n])."""
    launch, rows, state = launch or Launch(), Rows.of(tokens), states_last(state)
    (b, t, lines, w), n, dtype = rows.x.shape, len(tokens.A), rows.x.dtype
    size, _, _ = whole(t, tokens.x.shape[2], n)
    results = {
        "y": jax.ShapeDtypeStruct(rows.x.shape, dtype),
        "last": jax.ShapeDtypeStruct(state.shape, jnp.float32),
        "entries": jax.ShapeDtypeStruct((b, t // size, lines, w, n), jnp.float32),
    }

    def kernel(refs):
        block = Block(refs, size)
        A, D = load(refs["A"].at[block.channels]), load(refs["D"].at[block.channels], 2)

        def over_one(chunk, slot, h):
            refs["entries"].at[block.batch, chunk, block.channels][...] = h

            def group(i, h):
                for j in range(GROUP):
                    token = block.token(slot, i * GROUP + j)
                    h = token.decay(A) * h + token.write(A)
                    y = jnp.sum(h * of_states(token.C, A), axis=2) + D * token.x
                    refs["y_tile"].at[slot, i * GROUP + j][...] = y.astype(dtype)
                return h

            return lax.fori_loop(0, size // GROUP, group, h)

        walk = block.walk(t // size, launch, TOKENS, ("y",))
        first = load(refs["first"].at[block.batch, block.channels])
        refs["last"].at[block.batch, block.channels][...] = walk.over(over_one, first)

    scratch = launch.tiles(**_tiles(size, w, n, dtype, *TOKENS, "y"))
    operands, grid = rows._asdict() | {"first": state}, (lines // WARPS, b)
    found = start("selective_scan", kernel, results, operands, scratch, grid=grid, copies=len(TOKENS), launch=launch)
    return found["y"].reshape(tokens.x.shape), states_first(found["last"]), found["entries"]


def backward(launch, tokens, entries: Array, dy: Array, d_last: Array):
    """(gradients of the tokens but D, of the state before the first)."""
    launch, rows, d_last = launch or Launch(slots=2), Rows.of(tokens), states_last(d_last)
    (b, t, lines, w), n, dtype = rows.x.shape, len(tokens.A), rows.x.dtype
    size, _, _ = whole(t, tokens.x.shape[2], n)
    float32 = lambda *shape: jax.ShapeDtypeStruct(shape, jnp.float32)
    results = {
        "dx": jax.ShapeDtypeStruct(rows.x.shape, dtype),
        "d_delta": float32(*rows.x.shape),
        "dB": float32(b, lines // WARPS, t, n),
        "dC": float32(b, lines // WARPS, t, n),
        "dA": float32(b, lines, w, n),
        "d_state": float32(b, lines, w, n),
    }

    def kernel(refs):
        block = Block(refs, size)
        A, D = load(refs["A"].at[block.channels]), load(refs["D"].at[block.channels], 2)

        def over_one(chunk, slot, carry):
            def forth(i, h):
                refs["states"].at[i][...] = h
                for j in range(GROUP):
                    token = block.token(slot, i * GROUP + j)
                    h = token.decay(A) * h + token.write(A)
                return h

            def back(i, carry):
                i, steps = size // GROUP - 1 - i, []
                h = load(refs["states"].at[i])
                for j in range(GROUP):
                    token = block.token(slot, i * GROUP + j)
                    before, decay = h, token.decay(A)
                    h = decay * before + token.write(A)
                    steps.append((i * GROUP + j, token, decay, before, h))
                for step in reversed(steps):
                    carry = back_one(*step, carry)
                return carry

            def back_one(t, token, decay, before, after, carry):
                g, dA = carry
                dy = load(refs["dy_tile"].at[slot, t], 2).astype(jnp.float32)
                g = g + of_states(token.C, A) * of_channels(dy, A)
                written = jnp.sum(of_states(token.B, A) * g, axis=2)
                refs["dB_parts"].at[:, t][...] = jnp.sum(g * of_channels(token.delta * token.x, A), axis=1)
                refs["dC_parts"].at[:, t][...] = jnp.sum(after * of_channels(dy, A), axis=1)
                g = decay * g
                exponent = g * before
                refs["dx_tile"].at[slot, t][...] = (token.delta * written + D * dy).astype(dtype)
                d_delta = jnp.sum(exponent * A, axis=2) * (1.0 / LOG2E) + token.x * written
                refs["d_delta_tile"].at[slot, t][...] = d_delta
                return g, dA + exponent * of_channels(token.delta, A)

            lax.fori_loop(0, size // GROUP, forth, load(refs["entries_tile"].at[slot]))
            carry = lax.fori_loop(0, size // GROUP, back, carry)
            plgpu.commit_smem()  # the parts of all warps are there
            for name in ("dB", "dC"):
                refs[f"{name}_tile"].at[slot][...] = sum(refs[f"{name}_parts"][warp] for warp in range(WARPS))
            return carry

        walk = block.walk(t // size, launch, (*TOKENS, "dy", "entries"), ("dx", "d_delta", "dB", "dC"))
        d_last = load(refs["d_last"].at[block.batch, block.channels])
        carry = walk.over(over_one, (d_last, jnp.zeros_like(d_last)), reverse=True)
        for name, array in zip(("d_state", "dA"), carry):
            refs[name].at[block.batch, block.channels][...] = array

    _, plgpu = compat.modules()
    tiles = _tiles(size, w, n, dtype, *TOKENS, "dy", "dx", "d_delta", "dB", "dC")
    scratch = launch.tiles(**tiles, entries_tile=((WARPS, w, n), jnp.float32))
    scratch["states"] = plgpu.SMEM((size // GROUP, WARPS, w, n), jnp.float32)
    scratch |= {f"{name}_parts": plgpu.SMEM((WARPS, size, n), jnp.float32) for name in ("dB", "dC")}
    operands = rows._asdict() | {"entries": entries, "dy": in_rows(dy, n), "d_last": d_last}
    grid, name = (lines // WARPS, b), "selective_scan_backward"
    found = start(name, kernel, results, operands, scratch, grid=grid, copies=len(TOKENS) + 2, launch=launch)
    dx, d_delta = (found[name].reshape(tokens.x.shape) for name in ("dx", "d_delta"))
    dA, dB, dC = (jnp.sum(found[name], axis=axis) for name, axis in (("dA", 0), ("dB", 1), ("dC", 1)))
    return type(tokens)(dx, d_delta, states_first(dA), dB, dC, None, None), states_first(found["d_state"])


def _tiles(size, w, n, dtype, *names) -> dict:
    """Shapes and dtypes of what a chunk brings or gives."""
    channels, states = (size, WARPS, w), (size, n)
    kinds = {
        **dict.fromkeys(("x", "y", "dy", "dx"), (channels, dtype)),
        **dict.fromkeys(("delta", "d_delta"), (channels, jnp.float32)),
        **dict.fromkeys(("B", "C", "dB", "dC"), (states, jnp.float32)),
        "forget": ((size,), jnp.float32),
    }
    return {f"{name}_tile": kinds[name] for name in names}
