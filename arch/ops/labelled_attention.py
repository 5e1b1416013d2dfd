"""Attention to the tokens near each one and to a few others, whose pairs have labels with vectors of their own.

    e_ij = q_i (k_j + a_label(i,j)) scale,     o_i = sum_j softmax_j(e_ij) v_j
    label(i, j) = clip(j - i, -c, c)           of pairs that are told by their distance

Shaw, Uszkoreit, Vaswani, Self-Attention with Relative Position Representations, 2018, arXiv 1803.02155, sec. 3.2, with
the labels of Ainslie et al., ETC, 2020, arXiv 2004.08483, sec. 3.2. A block of so many queries as a token sees on
either side meets its own block and the two next to it: time and memory grow with tokens times that number.
"""

import jax
import jax.numpy as jnp

from arch.ops.attention import MASKED
from arch.typing import Array, Bool, Float


def near_and_few(
    query: Float[Array, "b t n h"],
    key: Float[Array, "b t n h"],
    value: Float[Array, "b t n h"],
    few_key: Float[Array, "b g n h"],
    few_value: Float[Array, "b g n h"],
    labels: Float[Array, "l n h"],
    few_labels: Float[Array, "2 n h"],
    *,
    radius: int,
    linked: Bool[Array, "b t g"] | None = None,
    valid: Bool[Array, "b t"] | None = None,
    few_valid: Bool[Array, "b g"] | None = None,
    scale: float,
) -> Float[Array, "b t n h"]:
    """Attention of each token to those at most `radius` places away and to the few, by one softmax.

    Args:
      query: [b t n h].
      key: [b t n h].
      value: [b t n h].
      few_key: [b g n h] of those that all see.
      few_value: [b g n h].
      labels: [l n h] the vectors of the distances -c ... c, an odd number of them.
      few_labels: [2 n h] the vectors of pairs with the few that are not linked, and that are.
      radius: places to either side that a token sees.
      linked: [b t g] which pairs with the few are linked; None for no pair.
      valid: [b t] False for tokens that nobody sees.
      few_valid: [b g] the same of the few.
      scale: factor of the logits.
    """
    b, t, n, h = query.shape
    count = -(-t // radius)
    blocks = lambda array: _padded(array, count * radius).reshape(b, count, radius, *array.shape[2:])
    around = lambda array: _with_neighbours(blocks(array))
    queries, wide = blocks(query * scale), jnp.promote_types(query.dtype, jnp.float32)
    product = lambda equation, *arrays: jnp.einsum(equation, *arrays, preferred_element_type=wide)

    near = product("bmqnh,bmknh->bmnqk", queries, around(key))
    near += _at_distances(product("bmqnh,lnh->bmnql", queries, labels), radius)
    seen = around(jnp.ones((b, t), bool) if valid is None else valid)[:, :, None, None] & _band(radius)
    few = product("bmqnh,bgnh->bmnqg", queries, few_key)
    links = None if linked is None else blocks(linked)[:, :, None]
    few += _of_links(product("bmqnh,lnh->bmnql", queries, few_labels), links)
    if few_valid is not None:
        few = jnp.where(few_valid[:, None, None, None], few, MASKED)
    weights = jax.nn.softmax(jnp.concatenate([jnp.where(seen, near, MASKED), few], axis=-1)).astype(value.dtype)
    out = product("bmnqk,bmknh->bmqnh", weights[..., : 3 * radius], around(value))
    out += product("bmnqg,bgnh->bmqnh", weights[..., 3 * radius :], few_value)
    return out.reshape(b, -1, n, h)[:, :t].astype(query.dtype)


def few_to_all(
    query: Float[Array, "b g n h"],
    key: Float[Array, "b s n h"],
    value: Float[Array, "b s n h"],
    labels: Float[Array, "l n h"],
    other_labels: Float[Array, "2 n h"],
    *,
    linked: Bool[Array, "b g t"] | None = None,
    linked_only: bool = False,
    valid: Bool[Array, "b s"] | None = None,
    scale: float,
) -> Float[Array, "b g n h"]:
    """Attention of a few tokens to themselves, the first g = s - t keys, and to all others, by one softmax.

    Args:
      query: [b g n h].
      key: [b s n h].
      value: [b s n h].
      labels: [l n h] the vectors of the distances -c ... c among the few.
      other_labels: [2 n h] of pairs with others that are not linked, and that are.
      linked: [b g t] which pairs with others are linked; None for no pair.
      linked_only: others that are not linked are not seen.
      valid: [b s] False for tokens that nobody sees.
      scale: factor of the logits.
    """
    g, reach = query.shape[1], labels.shape[0] // 2
    wide = jnp.promote_types(query.dtype, jnp.float32)
    product = lambda equation, *arrays: jnp.einsum(equation, *arrays, preferred_element_type=wide)
    queries = query * scale
    logits = product("bgnh,bsnh->bngs", queries, key)
    distance = jnp.clip(jnp.arange(g) - jnp.arange(g)[:, None], -reach, reach) + reach
    own = jnp.take_along_axis(product("bgnh,lnh->bngl", queries, labels), distance[None, None], axis=-1)
    linked = jnp.zeros((1, 1, logits.shape[3] - g), bool) if linked is None else linked
    others = _of_links(product("bgnh,lnh->bngl", queries, other_labels), linked[:, None])
    logits += jnp.concatenate([own, others], axis=-1)
    if linked_only:
        logits = logits.at[..., g:].set(jnp.where(linked[:, None], logits[..., g:], MASKED))
    if valid is not None:
        logits = jnp.where(valid[:, None, None], logits, MASKED)
    weights = jax.nn.softmax(logits).astype(value.dtype)
    return product("bngs,bsnh->bgnh", weights, value).astype(query.dtype)


def _padded(array, length):
    """[b length ...], zeros or False behind the tokens."""
    return jnp.pad(array, ((0, 0), (0, length - array.shape[1])) + ((0, 0),) * (array.ndim - 2))


def _with_neighbours(blocks):
    """[b m r ...] -> [b m 3r ...]: each block between the one before it and the one behind, zeros at the ends."""
    ends = jnp.pad(blocks, ((0, 0), (1, 1)) + ((0, 0),) * (blocks.ndim - 2))
    return jnp.concatenate([ends[:, :-2], blocks, ends[:, 2:]], axis=2)


def _band(radius):
    """[r 3r] which keys of the three blocks a query of the middle one sees."""
    offset = jnp.arange(3 * radius) - radius - jnp.arange(radius)[:, None]
    return jnp.abs(offset) <= radius


def _at_distances(scores, radius):
    """[... r l] a query's score of each distance -> [... r 3r] that of each key in the three blocks.

    A row of scores of the distances -r ... r, moved on by one place a row, is what stands in the band; that is a matter
    of padding and another shape. What stands beside the band is of no account.
    """
    reach = scores.shape[-1] // 2
    places = jnp.clip(jnp.arange(-radius, radius + 1), -reach, reach) + reach
    rows = jnp.pad(scores[..., places], [(0, 0)] * (scores.ndim - 1) + [(0, radius)])  # [... r 3r+1]
    flat = rows.reshape(*scores.shape[:-2], -1)[..., : 3 * radius * radius]
    return flat.reshape(*scores.shape[:-1], 3 * radius)


def _of_links(scores, linked):
    """[... 2] the scores of pairs that are not linked and that are -> [... g], or [... 1] where none is."""
    apart, together = scores[..., :1], scores[..., 1:]
    return apart if linked is None else jnp.where(linked, together, apart)
