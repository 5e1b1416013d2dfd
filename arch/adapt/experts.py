"""Fewer experts: a mixture keeps those that are used most, or becomes the one dense ffn that is their mean.

    merged = sum_i load_i expert_i / sum_i load_i

Kim et al., Scalable and Efficient MoE Training for Multitask Multilingual Models, 2021, arXiv 2109.10465, keep the most
used experts; the mean weighted by use undoes `upcycle` where the experts are still equal.

Both are pure functions: (config, parameters by canonical path) -> the same of another model.
"""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from arch import tree
from arch.adapt._ffns import MATRICES, SPARSE, changed, chosen_layers, ffn_of
from arch.ffns import gated_mlp, mlp, moe
from arch.typing import Array, Float


def drop_experts(
    model: Any, params: Mapping, load: Mapping[int, Float[Array, "e"]], *, keep: int
) -> tuple[Any, tree.Tree]:
    """The model with the most used experts of each mixture alone, in their old order.

    Args:
      model: config of a decoder or encoder.
      params: its parameters by canonical path.
      load: of each layer that changes, by its number, how much each expert is used (`moe/<layer>/load`).
      keep: experts that stay.

    Raises:
      ValueError: a layer has no mixture, or so many experts do not suit its router.
    """
    chosen = chosen_layers(model, tuple(load), SPARSE)
    fewer = {i: ffn_of(model, i).replace(num_experts=keep) for i in chosen}

    def change(number: int, ffn: moe.Config, leaves: Mapping) -> dict:
        if len(load[number]) != ffn.num_experts:
            raise ValueError(f"load[{number}] has {len(load[number])} experts, not num_experts={ffn.num_experts}")
        best = jnp.sort(jnp.argsort(-jnp.asarray(load[number]))[:keep])
        axis = {"router": -1, "router_bias": -1} | dict.fromkeys(MATRICES, 0)
        return {name: jnp.take(leaf, best, axis[name]) if name in axis else leaf for name, leaf in leaves.items()}

    return changed(model, params, fewer, change)


def merge_experts(model: Any, params: Mapping, load: Mapping[int, Float[Array, "e"]]) -> tuple[Any, tree.Tree]:
    """The dense model whose ffns are the mean of each mixture's experts, weighted by their use; undoes `upcycle`.

    Args:
      model: config of a decoder or encoder.
      params: its parameters by canonical path.
      load: of each layer that changes, by its number, how much each expert is used.

    Raises:
      ValueError: a layer has no mixture, or one with a shared expert, or its load has no positive sum.
    """
    chosen = chosen_layers(model, tuple(load), SPARSE)
    dense = {}
    for i in chosen:
        ffn = ffn_of(model, i)
        if ffn.shared_dim:
            raise ValueError(f"shared_dim={ffn.shared_dim} of layer {i} must be 0: it has no place in one ffn")
        dense[i] = (gated_mlp if ffn.gated else mlp).Config(hidden_dim=ffn.hidden_dim, activation=ffn.activation)

    def change(number: int, ffn: moe.Config, leaves: Mapping) -> dict:
        weights = jnp.asarray(load[number], jnp.float32)
        if weights.shape != (ffn.num_experts,) or not (jnp.all(weights >= 0) and jnp.sum(weights) > 0):
            raise ValueError(f"load[{number}]={weights} must be num_experts={ffn.num_experts} shares, not all 0")
        share = weights / jnp.sum(weights)
        return {name: jnp.tensordot(share, leaves[name], 1) for name in MATRICES if name in leaves}

    return changed(model, params, dense, change)
