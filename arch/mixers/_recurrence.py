"""Recurrences of mixers, by the implementation that suits the device, on each shard of rows, tokens, heads, channels.

Each is called as its reference in `arch.ops`. XLA's form the compiler partitions; a kernel it cannot, so that one runs
under `each_shard`. Where the mesh splits the tokens of rows, so does XLA's form, and shards exchange their states
(`arch.sharding.passing`); the state after the last token is then None.
"""

import jax
import jax.numpy as jnp

from arch.kernels.linear_attention import choice as attention
from arch.kernels.selective_scan import choice as scan
from arch.kernels.wkv import choice as average
from arch.ops import gated_delta as delta_rule
from arch.ops import linear_recurrence as recurrence
from arch.ops import wkv as averages
from arch.ops import wkv7 as goose
from arch.ops.wkv import State
from arch.sharding import context, passing
from arch.sharding.mesh import device_kind
from arch.sharding.per_shard import each_shard
from arch.typing import Array

TOKENS = ("batch", "sequence")
HEADS = (*TOKENS, "heads", None)
OF_HEADS = (*TOKENS, "heads")
STATES = ("batch", "heads", None, None)
CHANNELS = (*TOKENS, "hidden")


def linear_attention(
    query, key, value, log_decay=None, *, state=None, reset=None, valid=None, chunk: int
) -> tuple[Array, Array | None]:
    """As `arch.ops.linear_attention.recurrence.linear_attention`."""
    decays = 1 if log_decay is None else log_decay.shape[-1]
    channels, dtype = (query.shape[-1], value.shape[-1]), jnp.result_type(query, key, value)
    kind = device_kind()
    how = attention.choose(kind, dtype, channels, length=query.shape[1], decays=decays)

    def run(query, key, value, log_decay, reset, valid, state):
        given = dict(state=state, reset=reset, valid=valid, chunk=chunk)
        return attention.linear_attention(query, key, value, log_decay, device_kind=kind, implementation=how, **given)

    def span(query, key, value, log_decay, reset, valid):
        return passing.of_keys(key, value, log_decay, reset, valid)

    arguments = query, key, value, log_decay, reset, valid, state
    return _run(how, run, span, arguments, (HEADS, HEADS, HEADS, HEADS, TOKENS, TOKENS, STATES), (HEADS, STATES))


def ssd(x, delta, A, B, C, D, *, state=None, reset=None, chunk: int) -> tuple[Array, Array | None]:
    """As `arch.ops.ssd.ssd`."""
    channels = B.shape[-1], x.shape[-1]
    kind = device_kind()
    how = attention.choose(kind, x.dtype, channels, length=x.shape[1])

    def run(x, delta, A, B, C, D, reset, state):
        given = dict(state=state, reset=reset, chunk=chunk)
        return attention.ssd(x, delta, A, B, C, D, device_kind=kind, implementation=how, **given)

    def span(x, delta, A, B, C, D, reset):
        delta = delta.astype(jnp.promote_types(delta.dtype, jnp.float32))
        return passing.of_groups(delta[..., None] * x, B, delta * A, reset)

    groups = HEADS if B.shape[2] == x.shape[2] else TOKENS + (None, None)
    # Groups that heads share are whole on each shard, and so are then the heads, but for one group, which all share.
    heads = "heads" if B.shape[2] in (1, x.shape[2]) else None
    split = lambda axes: tuple(heads if axis == "heads" else axis for axis in axes)
    axes = (HEADS, OF_HEADS, ("heads",), groups, groups, ("heads",), TOKENS, STATES)
    return _run(how, run, span, (x, delta, A, B, C, D, reset, state), map(split, axes), map(split, (HEADS, STATES)))


def gated_delta(
    query, key, value, log_decay, beta, *, state=None, reset=None, chunk: int
) -> tuple[Array, Array | None]:
    """As `arch.ops.gated_delta.gated_delta`."""

    def run(query, key, value, log_decay, beta, reset, state):
        places = dict(state=state, reset=reset, chunk=chunk)
        return delta_rule.gated_delta(query, key, value, log_decay, beta, **places)

    def span(query, key, value, log_decay, beta, reset):
        (b, _, n, h), m = value.shape, key.shape[-1]
        nothing = jnp.zeros((*value.shape[:3], m), value.dtype)  # m more channels, whose state starts as 1
        state = jnp.broadcast_to(jnp.eye(h + m, m, -h), (b, n, h + m, m))
        value = jnp.concatenate([value, nothing], axis=-1)
        state = run(query, key, value, log_decay, beta, reset, state)[1]
        return state[:, :, h:], state[:, :, :h]

    shared = key.shape[2] not in (1, value.shape[2])
    keys = HEADS if key.shape[2] == value.shape[2] else (*TOKENS, None, None)
    split = lambda axes: tuple(None if shared and axis == "heads" else axis for axis in axes)
    axes = map(split, (keys, keys, HEADS, OF_HEADS, OF_HEADS, TOKENS, STATES))
    arguments = query, key, value, log_decay, beta, reset, state
    return _run("xla", run, span, arguments, axes, map(split, (HEADS, STATES)), join=passing.turned_behind)


def wkv7(
    receptance, log_decay, key, value, removal, rate, *, state=None, reset=None, valid=None, chunk: int
) -> tuple[Array, Array | None]:
    """As `arch.ops.wkv7.wkv7`."""

    def run(receptance, log_decay, key, value, removal, rate, reset, valid, state):
        places = dict(state=state, reset=reset, valid=valid, chunk=chunk)
        return goose.wkv7(receptance, log_decay, key, value, removal, rate, **places)

    def span(receptance, log_decay, key, value, removal, rate, reset, valid):
        (b, _, n, h), v = key.shape, value.shape[-1]
        nothing = jnp.zeros((*key.shape[:3], h), value.dtype)  # h more channels, whose state starts as 1
        state = jnp.broadcast_to(jnp.eye(h, v + h, v), (b, n, h, v + h))
        value = jnp.concatenate([value, nothing], axis=-1)
        state = run(receptance, log_decay, key, value, removal, rate, reset, valid, state)[1]
        return state[..., v:], state[..., :v]

    arguments = receptance, log_decay, key, value, removal, rate, reset, valid, state
    axes = (HEADS,) * 6 + (TOKENS, TOKENS, STATES)
    return _run("xla", run, span, arguments, axes, (HEADS, STATES), join=passing.turned)


def selective_scan(x, delta, A, B, C, D, *, state=None, reset=None) -> tuple[Array, Array | None]:
    """As `arch.ops.selective_scan.selective_scan`."""
    kind = device_kind()
    how = scan.choose(kind, x.dtype, A.shape[1], length=x.shape[1])

    def run(x, delta, A, B, C, D, reset, state):
        given = dict(state=state, reset=reset)
        return scan.selective_scan(x, delta, A, B, C, D, device_kind=kind, implementation=how, **given)

    def span(x, delta, A, B, C, D, reset):
        left = run(x, delta, A, B, C, D, reset, None)[1]
        whole = jnp.exp(jnp.sum(delta.astype(left.dtype), axis=1)[..., None] * A)
        return whole if reset is None else jnp.where(jnp.any(reset, axis=1)[:, None, None], 0, whole), left

    of_states, channels = TOKENS + (None,), ("batch", "hidden", None)
    axes = CHANNELS, CHANNELS, ("hidden", None), of_states, of_states, ("hidden",), TOKENS, channels
    return _run(how, run, span, (x, delta, A, B, C, D, reset, state), axes, (CHANNELS, channels))


def linear_recurrence(decay, x, *, state=None) -> tuple[Array, Array | None]:
    """As `arch.ops.linear_recurrence.linear_recurrence`."""

    def run(decay, x, state):
        return recurrence.linear_recurrence(decay, x, state=state)

    def span(decay, x):
        left = run(decay, x, None)[1]
        return jnp.prod(decay.astype(left.dtype), axis=1), left

    of_rows = "batch", "hidden"
    return _run("xla", run, span, (decay, x, state), (CHANNELS, CHANNELS, of_rows), (CHANNELS, of_rows))


def wkv(key, value, decay, bonus, *, state=None, reset=None, valid=None) -> tuple[Array, State | None]:
    """As `arch.ops.wkv.wkv`."""
    kind = device_kind()
    how = average.choose(kind, jnp.result_type(key, value), length=key.shape[1])

    def run(key, value, decay, bonus, reset, valid, state):
        given = dict(state=state, reset=reset, valid=valid)
        return average.wkv(key, value, decay, bonus, device_kind=kind, implementation=how, **given)

    def span(key, value, decay, bonus, reset, valid):
        tokens = key.shape[1] if valid is None else jnp.sum(valid, axis=1)[:, None]
        fall = jnp.broadcast_to(-decay * tokens, (key.shape[0], key.shape[2]))
        if reset is not None:
            starts = reset if valid is None else reset & valid
            fall = jnp.where(jnp.any(starts, axis=1)[:, None], averages.NEVER, fall)
        return fall, run(key, value, decay, bonus, reset, valid, None)[1]

    def join(one, two):
        return one[0] + two[0], averages.add(one[1], two[0], two[1])

    of_rows = "batch", "hidden"
    axes = CHANNELS, CHANNELS, ("hidden",), ("hidden",), TOKENS, TOKENS, of_rows
    arguments, empty = (key, value, decay, bonus, reset, valid, state), lambda left: averages.empty(*left[0].shape)
    return _run(how, run, span, arguments, axes, (CHANNELS, of_rows), join=join, empty=empty)


def _zeros(left):
    return jax.tree.map(jnp.zeros_like, left)


def _run(how, function, span, arguments, axes, out_axes, *, join=passing.scaled, empty=_zeros):
    """`function(*arguments)`, the last of which is the state, or None: (results, the last state).

    Args:
      how: the implementation.
      span: of the other arguments, what their tokens make of a state and leave (`passing.Span`).
      axes: of the arguments.
      out_axes: of the results and the state.
      join: of spans.
      empty: of what tokens leave, the state before the first.
    """
    *inputs, state = arguments
    axes, out_axes = tuple(axes), tuple(out_axes)
    if state is None and context.shards(inputs[0].shape[1]) > 1:

        def on_shard(*inputs):
            own = span(*inputs)
            return function(*inputs, passing.entering(own, join, empty(own[1])))[:1]

        like = lambda *inputs: function(*inputs, None)[:1]
        (out,) = each_shard(on_shard, inputs, axes[:-1], out_axes[:1], like=like)
        return out, None
    if how == "xla":
        return function(*arguments)
    whole = lambda axes: tuple(tuple(None if axis == "sequence" else axis for axis in each) for each in axes)
    return each_shard(function, arguments, whole(axes), whole(out_axes))
