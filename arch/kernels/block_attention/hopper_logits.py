"""The logits of a part of a block, in the registers of a warpgroup: 64 rows of queries, or by keys 64 rows of keys."""

import jax.numpy as jnp

from arch.kernels import compat
from arch.kernels.block_attention.hopper_parts import spread, vector
from arch.kernels.block_attention.rule import LOG2E, MASKED, Rule, mask_of
from arch.kernels.warpgroups import numbers


def logits_of(rule: Rule, refs, products, at, mask, *, by_keys: bool = False):
    """(logits in base 2, their slope) [64 w]; see `Rule.logits`.

    Args:
      rule: of the attention.
      refs: the kernel's, by name.
      products: [64 w] of queries and keys, or of keys and queries.
      at: 'batch', 'head', and the first 'query' and 'key', counted in the whole row.
      mask: flags of the visit and the place of this part in its mask, for a partial block; None for a full one.
      by_keys: rows are keys, and so they are in the masks.
    """
    pl, plgpu = compat.modules()
    logits, slope = rule.logits(products)
    of_queries, of_keys = (1, 0) if by_keys else (0, 1)
    shape = logits.shape
    if "slopes" in refs:
        query_place, key_place = at["query"] + numbers(shape, of_queries), at["key"] + numbers(shape, of_keys)
        distance = jnp.abs(query_place - key_place).astype(jnp.float32)
        logits = logits - refs["slopes"][at["head"]] * LOG2E * distance
    if "query_segments" in refs:
        parts = (("query", of_queries), ("key", of_keys))
        ids = [
            spread(vector(refs[f"{name}_segments"].at[at["batch"], pl.ds(at[name], shape[axis])], axis), shape, axis)
            for name, axis in parts
        ]
        logits = jnp.where(ids[0] == ids[1], logits, MASKED)
    if mask is not None:
        flags, row, column = mask
        part = refs["masks"].at[mask_of(flags), pl.ds(row, shape[0]), pl.ds(column, shape[1])]
        seen = plgpu.load(part, layout=plgpu.Layout.WGMMA, optimized=False)
        logits = jnp.where(seen != 0, logits, MASKED)
    return logits, slope
