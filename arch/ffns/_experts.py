"""The experts of a mixture, perceptrons gated or not, on the pairs that a router made: what runs on each shard."""

import dataclasses
import math
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp

from arch.kernels import implementations
from arch.kernels.grouped_matmul.choice import Implementation, grouped_matmul
from arch.ops import dispatch
from arch.ops.activation import ACTIVATIONS
from arch.ops.grouped_perceptron import grouped_perceptron
from arch.ops.int8 import Int8
from arch.ops.routing import assignment
from arch.sharding import exchange, rounds
from arch.sharding.mesh import RULES
from arch.typing import Array, Float

Dispatch = Literal["grouped", "gathered", "dense"]
Matmul = Literal["", Implementation]


@dataclasses.dataclass(frozen=True)
class How:
    """How pairs are computed.

    Attributes:
      way: of dispatch.
      num_experts: e, on all shards.
      places: see `dispatch.grouped`.
      capacity: the most kept pairs that an expert has in a row.
      activation: a key of ACTIVATIONS.
      device_kind: of the devices that run this ('cpu', 'NVIDIA H200', 'TPU v5p' ...).
      matmul: the implementation of the grouped product, see `arch.kernels.grouped_matmul.choice`; '' for the best.
      chunk: tokens of a row at a time; 0 for all of them.
      round_factor: where rows go to other shards, those of a round in units of an even load; 0 for all in one round.
    """

    way: Dispatch
    num_experts: int
    places: int
    capacity: int
    activation: str
    device_kind: str
    matmul: Matmul
    chunk: int = 0
    round_factor: float = 0.0


def apply_experts(
    x: Float[Array, "b t d"],
    pairs: assignment.Pairs | assignment.SoftChoice,
    inner: tuple[Float[Array, "_ d f"] | Int8, ...],
    down: Float[Array, "_ f d"] | Int8,
    factors: Float[Array, "b m f"] | None,
    *,
    how: How,
) -> Float[Array, "b t d"]:
    """The weighted sum of each token's experts; a pair that is not kept adds nothing.

    Args:
      x: [b t d] tokens.
      pairs: [b m] of each row, of which this shard may have a part, in order; or mixtures of them, which the dispatch
        'dense' takes.
      inner: [e d f] the weights of the experts' gates and of what they gate; of the latter alone without gates.
      down: [e f d] the weights of what comes out. With less than `how.num_experts`, they are this shard's part: rows go
        to the experts' shards and come back.
      factors: [b m f] of the hidden layers' entries, for dropout; None for ones.
      how: the rest.
    """
    if isinstance(pairs, assignment.Pairs):
        pairs = dataclasses.replace(pairs, tokens=pairs.tokens % x.shape[1])
    apply = partial(_by_chunks, chunk=how.chunk) if 0 < how.chunk < x.shape[1] else _apply
    return apply(x, pairs, inner, down, factors, how=how)


def _by_chunks(x, pairs, inner, down, factors, *, how, chunk):
    """The same, chunk after chunk; what is inside one is computed again for its gradient, and never kept."""
    b, t, d = x.shape
    chunks = -(-t // chunk)
    chunk = -(-t // chunks)

    def deal(array):
        """[chunks b ...] of an array that has as many entries for each token."""
        each = array.shape[1] // t
        array = jnp.pad(array, [(0, 0), (0, (chunks * chunk - t) * each)] + [(0, 0)] * (array.ndim - 2))
        return array.reshape(b, chunks, chunk * each, *array.shape[2:]).swapaxes(0, 1)

    arrays, structure = jax.tree.flatten((x, dataclasses.replace(pairs, tokens=pairs.tokens % chunk), factors))

    @jax.checkpoint
    def step(part):
        x, pairs, factors = structure.unflatten(part)
        return _apply(x, pairs, inner, down, factors, how=how)

    out = jax.lax.map(step, [deal(array) for array in arrays])
    return out.swapaxes(0, 1).reshape(b, chunks * chunk, d)[:, :t]


def _apply(x, pairs, inner, down, factors, *, how):
    e, here, weights = how.num_experts, down.shape[0], (inner, down)
    sizes = dict(num_experts=e, places=how.places)
    (axis,) = RULES["experts"]
    laid = lambda lay: None if factors is None else lay(factors)

    if how.way == "grouped":
        limit = x.shape[0] * min(pairs.tokens.shape[1], here * min(how.capacity, x.shape[1]))
        a_round = math.ceil(how.round_factor * pairs.tokens.size * here / e)
        between, swap = dict(axis=axis, device_kind=how.device_kind), None

        def of_sorted(rows, sizes, lay):
            return _of_sorted((rows, laid(lay)), weights, sizes, how=how)

        def in_rounds(rows, sizes, lay):
            arrays = rows, laid(lay), lay(pairs.weights[..., None])
            return rounds.in_rounds(partial(_weighed, how=how), arrays, weights, sizes, limit=a_round, **between)

        if here != e and 0 < a_round < limit:
            ones = dataclasses.replace(pairs, weights=jnp.ones_like(pairs.weights))
            return dispatch.grouped(x, ones, in_rounds, **sizes)
        if here != e:
            swap = partial(exchange.sorted_rows, num_rows=pairs.tokens.size, limit=limit, **between)
        return dispatch.grouped(x, pairs, of_sorted, exchange=swap, **sizes)

    def experts(rows, product, lay):
        return _perceptron(rows, product, weights, laid(lay), activation=how.activation)

    experts = experts if here == e else _exchanged(experts, axis)
    if how.way == "gathered":
        return dispatch.gathered(x, pairs, experts, capacity=how.capacity, **sizes)
    if isinstance(pairs, assignment.Pairs):
        pairs = assignment.dense(pairs, tokens=x.shape[1], num_experts=e, capacity=how.capacity)
    return dispatch.dense(x, pairs, experts)


def _weighed(arrays, weights, sizes, *, how):
    """The same, each result times its pair's weight: so that the weight's gradient needs no result in the layer."""
    *rows_and_factors, weight = arrays
    out = _of_sorted(rows_and_factors, weights, sizes, how=how)
    return (out * weight).astype(out.dtype)


def _of_sorted(rows_and_factors, weights, sizes, *, how):
    """Rows sorted by expert through their experts; the factors are None or as the rows are."""
    (rows, factors), (inner, down) = rows_and_factors, weights
    if how.device_kind == "cpu" and not how.matmul and factors is None and not isinstance(down, Int8):
        implementations.tell("grouped perceptron", "blocks")
        return grouped_perceptron(rows, inner, down, sizes, activation=how.activation)
    by_device = dict(device_kind=how.device_kind, implementation=how.matmul)
    product = partial(grouped_matmul, group_sizes=sizes, **by_device)
    return _perceptron(rows, product, weights, factors, activation=how.activation)


def _perceptron(rows, product, weights, factors, *, activation):
    inner, down = weights
    first, *gated = (product(rows, weight) for weight in inner)
    hidden = math.prod(gated, start=ACTIVATIONS[activation](first))
    return product(hidden if factors is None else hidden * factors, down)


def _exchanged(experts: dispatch.Experts, axis: str) -> dispatch.Experts:
    """The same of buffers [b e c d], each expert's part of which is computed on the expert's shard."""
    there, back = exchange.buffers(axis)
    return lambda rows, product, lay: back(experts(there(rows), product, lambda values: there(lay(values))))
