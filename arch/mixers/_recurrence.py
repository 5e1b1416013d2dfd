"""Recurrences of mixers, by the implementation that suits the device, on each shard of rows and of heads or channels.

Each is called as its reference in `arch.ops`. XLA's form the compiler partitions; a kernel it cannot, so that one runs
under `each_shard`.
"""

import jax.numpy as jnp

from arch.kernels.linear_attention import choice as attention
from arch.kernels.selective_scan import choice as scan
from arch.kernels.wkv import choice as average
from arch.ops.wkv import State
from arch.sharding.mesh import device_kind
from arch.sharding.per_shard import each_shard
from arch.typing import Array

HEADS = ("batch", None, "heads", None)
OF_HEADS = ("batch", None, "heads")
STATES = ("batch", "heads", None, None)
CHANNELS = ("batch", None, "hidden")
TOKENS = ("batch", None)


def linear_attention(
    query, key, value, log_decay=None, *, state=None, reset=None, valid=None, chunk: int
) -> tuple[Array, Array]:
    """As `arch.ops.linear_attention.recurrence.linear_attention`."""
    decays = 1 if log_decay is None else log_decay.shape[-1]
    channels, dtype = (query.shape[-1], value.shape[-1]), jnp.result_type(query, key, value)
    kind = device_kind()
    how = attention.choose(kind, dtype, channels, length=query.shape[1], decays=decays)

    def run(query, key, value, log_decay, state, reset, valid):
        given = dict(state=state, reset=reset, valid=valid, chunk=chunk)
        return attention.linear_attention(query, key, value, log_decay, device_kind=kind, implementation=how, **given)

    arguments = query, key, value, log_decay, state, reset, valid
    return _run(how, run, arguments, (HEADS, HEADS, HEADS, HEADS, STATES, TOKENS, TOKENS), (HEADS, STATES))


def ssd(x, delta, A, B, C, D, *, state=None, reset=None, chunk: int) -> tuple[Array, Array]:
    """As `arch.ops.ssd.ssd`."""
    channels = B.shape[-1], x.shape[-1]
    kind = device_kind()
    how = attention.choose(kind, x.dtype, channels, length=x.shape[1])

    def run(x, delta, A, B, C, D, state, reset):
        given = dict(state=state, reset=reset, chunk=chunk)
        return attention.ssd(x, delta, A, B, C, D, device_kind=kind, implementation=how, **given)

    groups = HEADS if B.shape[2] == x.shape[2] else TOKENS + (None, None)
    # Groups that heads share are whole on each shard, and so are then the heads, but for one group, which all share.
    heads = "heads" if B.shape[2] in (1, x.shape[2]) else None
    split = lambda axes: tuple(heads if axis == "heads" else axis for axis in axes)
    axes = (HEADS, OF_HEADS, ("heads",), groups, groups, ("heads",), STATES, TOKENS)
    return _run(how, run, (x, delta, A, B, C, D, state, reset), map(split, axes), map(split, (HEADS, STATES)))


def selective_scan(x, delta, A, B, C, D, *, state=None, reset=None) -> tuple[Array, Array]:
    """As `arch.ops.selective_scan.selective_scan`."""
    kind = device_kind()
    how = scan.choose(kind, x.dtype, A.shape[1], length=x.shape[1])

    def run(x, delta, A, B, C, D, state, reset):
        given = dict(state=state, reset=reset)
        return scan.selective_scan(x, delta, A, B, C, D, device_kind=kind, implementation=how, **given)

    of_states, channels = TOKENS + (None,), ("batch", "hidden", None)
    axes = CHANNELS, CHANNELS, ("hidden", None), of_states, of_states, ("hidden",), channels, TOKENS
    return _run(how, run, (x, delta, A, B, C, D, state, reset), axes, (CHANNELS, channels))


def wkv(key, value, decay, bonus, *, state=None, reset=None, valid=None) -> tuple[Array, State]:
    """As `arch.ops.wkv.wkv`."""
    kind = device_kind()
    how = average.choose(kind, jnp.result_type(key, value), length=key.shape[1])

    def run(key, value, decay, bonus, state, reset, valid):
        given = dict(state=state, reset=reset, valid=valid)
        return average.wkv(key, value, decay, bonus, device_kind=kind, implementation=how, **given)

    of_rows = "batch", "hidden"
    axes = CHANNELS, CHANNELS, ("hidden",), ("hidden",), of_rows, TOKENS, TOKENS
    return _run(how, run, (key, value, decay, bonus, state, reset, valid), axes, (CHANNELS, of_rows))


def _run(how, function, arguments, axes, out_axes):
    if how == "xla":
        return function(*arguments)
    return each_shard(function, arguments, tuple(axes), tuple(out_axes))
