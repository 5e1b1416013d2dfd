"""Dispatch: tokens to the places of their experts, through the experts, and back as weighted sums.

    y_t = sum over pairs (t, e) of w_te f_e(x_t)

Three ways to the same values. `grouped` sorts the pairs by expert and multiplies the rows of each by its own weight
(Gale et al., MegaBlocks, 2022, arXiv 2211.15841): nothing is padded, nothing dropped. `gathered` fills a buffer of so
many places an expert by index (Hwang et al., Tutel, 2022, arXiv 2206.03382). `dense` fills it by products with
one-hot tensors (Lepikhin et al., GShard, 2020, arXiv 2006.16668, sec. 3.2): the reference, which compilers partition,
and the one for soft mixtures.

An expert's arithmetic is a function `experts(rows, product, lay)`, whatever the rows' layout: in it
`product(rows, weight)` multiplies each row by its own expert's part of a weight [e d f], and `lay(values)` lays
values [b m f] of the pairs out as the rows are. For sorted rows it is `experts(rows, sizes, lay)`: with the numbers of
each expert's rows, [e], it takes the product that suits the device, or what makes several at once.
"""

from collections.abc import Callable

import jax.numpy as jnp

from arch.ops.int8 import Int8, dequantized
from arch.ops.routing.assignment import Pairs, SoftChoice, places
from arch.typing import Array, Float

Experts = Callable[[Array, Callable, Callable], Array]


def grouped(
    x: Float[Array, "b t d"],
    pairs: Pairs,
    experts: Experts,
    *,
    num_experts: int,
    places: int,
    exchange: Callable[[Array], tuple[Callable, Callable, Array]] | None = None,
) -> Float[Array, "b t d"]:
    """By sorting; a pair that is not kept costs nothing.

    Args:
      x: [b t d] tokens.
      pairs: [b m] of each row.
      experts: of rows [m d] sorted by expert. Rows behind the kept pairs come out as anything, and are weighed by 0.
      num_experts: e.
      places: c where each token has its c pairs side by side, in the tokens' order; 0 where it has not.
      exchange: where other devices have some of the experts: of [e] rows for each expert, (there, back, sizes) as in
        `arch.sharding.exchange.sorted_rows`. None where all are here.
    """
    b, t, d = x.shape
    m = pairs.tokens.shape[1]
    expert = jnp.where(pairs.kept, pairs.experts, num_experts).reshape(-1)
    order = jnp.argsort(expert)  # stable: a token's rows keep their place among equals
    sizes = jnp.bincount(expert, length=num_experts + 1)[:num_experts].astype(jnp.int32)
    token = (jnp.arange(b)[:, None] * t + pairs.tokens).reshape(-1)
    there, back, sizes = exchange(sizes) if exchange else (_stay, _stay, sizes)
    lay = lambda values: there(values.reshape(b * m, -1)[order])
    out = back(experts(there(x.reshape(-1, d)[token[order]]), sizes, lay))
    return _summed(out[jnp.argsort(order)].reshape(b, m, d), pairs, tokens=t, places=places)


def gathered(
    x: Float[Array, "b t d"], pairs: Pairs, experts: Experts, *, num_experts: int, places: int, capacity: int
) -> Float[Array, "b t d"]:
    """By filling a buffer of `capacity` places for each expert and row; a kept pair that finds none is lost.

    Args:
      x, pairs, num_experts, places: as in `grouped`.
      experts: of rows [b e capacity d].
      capacity: at least the largest number of kept pairs that an expert has in a row.
    """
    b, t, d = x.shape
    slot = _slots(pairs, num_experts=num_experts, capacity=capacity)
    row, size = jnp.arange(b)[:, None], num_experts * capacity
    token = jnp.full((b, size), t).at[row, slot].set(pairs.tokens, mode="drop")
    buffer = (b, num_experts, capacity, -1)
    filled = x.at[row, token].get(mode="fill", fill_value=0).reshape(buffer)

    def lay(values):
        empty = jnp.zeros((b, size, values.shape[-1]), values.dtype)
        return empty.at[row, slot].set(values, mode="drop").reshape(buffer)

    out = experts(filled, by_expert, lay).reshape(b, size, d)
    return _summed(out.at[row, slot].get(mode="fill", fill_value=0), pairs, tokens=t, places=places)


def dense(x: Float[Array, "b t d"], routing: SoftChoice, experts: Experts) -> Float[Array, "b t d"]:
    """By products with the dispatch and combine tensors.

    Args:
      x: [b t d] tokens.
      routing: from `arch.ops.routing.assignment.dense`, or a soft one.
      experts: of rows [b e c d]; `lay` is None, since a place may mix several tokens.
    """
    filled = jnp.einsum("btec,btd->becd", routing.dispatch.astype(x.dtype), x)
    return jnp.einsum("btec,becd->btd", routing.combine.astype(x.dtype), experts(filled, by_expert, None))


def by_expert(rows: Float[Array, "b e c d"], weight: Float[Array, "e d f"] | Int8) -> Float[Array, "b e c f"]:
    """The product for rows that lie by expert."""
    return jnp.einsum("becd,edf->becf", rows, dequantized(weight, rows.dtype))


def _stay(rows):
    return rows


def _slots(pairs, *, num_experts, capacity):
    """[b m] each pair's number among all places of the row, beyond the last one for a pair that has none."""
    place = places(pairs.experts, pairs.kept, num_experts=num_experts)
    has = pairs.kept & (place < capacity)
    return jnp.where(has, pairs.experts * capacity + place, num_experts * capacity)


def _summed(out, pairs, *, tokens, places):
    """[b t d] the weighted sum of each token's pairs [b m d]."""
    b, _, d = out.shape
    weights = jnp.where(pairs.kept, pairs.weights, 0).astype(out.dtype)
    if places:
        by_token = (b, tokens, places)
        return jnp.einsum("btcd,btc->btd", out.reshape(*by_token, d), weights.reshape(by_token))
    return jnp.zeros((b, tokens, d), out.dtype).at[jnp.arange(b)[:, None], pairs.tokens].add(out * weights[..., None])
