"""Upcycling: a dense model becomes a mixture of experts that computes the same at first; and the ways back.

    expert_i = the dense ffn, for each i;   y = sum_i w_i expert_i(x) = ffn(x),   for sum_i w_i = 1

Komatsuzaki et al., Sparse Upcycling: Training Mixture-of-Experts from Dense Checkpoints, 2022, arXiv 2212.05055, sec.
3: each ffn is copied, the router is fresh, all else stays. That no token is dropped and that its weights sum to one is
what makes the first step's loss the dense model's. The ways back keep a mixture's most used experts, as Kim et al.,
Scalable and Efficient MoE Training for Multitask Multilingual Models, 2021, arXiv 2109.10465, or average them into one
ffn.

All are pure functions: (config, parameters by canonical path) -> the same of another model.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from arch import tree
from arch.ffns import gated_mlp, mlp, moe
from arch.layers import block, stack
from arch.layers.contract import Context, positions_of
from arch.layers.weight import unbox
from arch.typing import Array, Float, Key

MATRICES = ("gate", "up", "down")
FFNS = (mlp.Config, gated_mlp.Config, moe.Config)


def upcycle(
    model: Any,
    params: Mapping,
    experts: moe.Config,
    *,
    key: Key[Array, ""],
    layers: Sequence[int] = (),
    noise: float = 0.0,
) -> tuple[Any, tree.Tree]:
    """The model with mixtures in place of ffns, and its parameters.

    Args:
      model: config of a decoder or encoder.
      params: its parameters by canonical path (`tree.unstack`).
      experts: the mixture; as wide as the ffn, of the same activation, gated where that is, with weights that sum to
        one and without a shared expert.
      key: for the router and the noise.
      layers: numbers of the layers that change; () for all.
      noise: standard deviation of what is added to the copies, as a share of that of each matrix.

    Raises:
      ValueError: the mixture would not compute what the ffn does, or a layer has no single ffn of its own.
    """
    chosen = _chosen(model, layers, (mlp.Config, gated_mlp.Config))
    if experts.shared_dim or not experts.renormalize:
        found = f"shared_dim={experts.shared_dim} and renormalize={experts.renormalize}"
        raise ValueError(f"{found} must be 0 and True: a token's experts must add up to the dense ffn")

    def change(number: int, ffn, leaves: Mapping) -> dict:
        _must_match(experts, ffn)
        start, own = jax.random.split(jax.random.fold_in(key, number))
        fresh, copies = _fresh(experts, leaves["up"].shape[0], start), {}
        for i, name in enumerate(sorted(leaves)):
            copy = jnp.broadcast_to(leaves[name], (experts.num_experts, *leaves[name].shape))
            if noise:
                random = jax.random.normal(jax.random.fold_in(own, i), copy.shape, copy.dtype)
                copy += noise * jnp.std(copy) * random
            copies[name] = copy
        return fresh | copies

    return _changed(model, params, {i: experts for i in chosen}, change)


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
    chosen = _chosen(model, tuple(load), (moe.Config,))
    fewer = {i: _ffn(model, i).replace(num_experts=keep) for i in chosen}

    def change(number: int, ffn: moe.Config, leaves: Mapping) -> dict:
        if len(load[number]) != ffn.num_experts:
            raise ValueError(f"load[{number}] has {len(load[number])} experts, not num_experts={ffn.num_experts}")
        best = jnp.sort(jnp.argsort(-jnp.asarray(load[number]))[:keep])
        axis = {"router": -1, "router_bias": -1} | dict.fromkeys(MATRICES, 0)
        return {name: jnp.take(leaf, best, axis[name]) if name in axis else leaf for name, leaf in leaves.items()}

    return _changed(model, params, fewer, change)


def merge_experts(model: Any, params: Mapping, load: Mapping[int, Float[Array, "e"]]) -> tuple[Any, tree.Tree]:
    """The dense model whose ffns are the mean of each mixture's experts, weighted by their use; undoes `upcycle`.

    Args:
      model: config of a decoder or encoder.
      params: its parameters by canonical path.
      load: of each layer that changes, by its number, how much each expert is used.

    Raises:
      ValueError: a layer has no mixture, or one with a shared expert, or its load has no positive sum.
    """
    chosen = _chosen(model, tuple(load), (moe.Config,))
    dense = {}
    for i in chosen:
        ffn = _ffn(model, i)
        if ffn.shared_dim:
            raise ValueError(f"shared_dim={ffn.shared_dim} of layer {i} must be 0: it has no place in one ffn")
        dense[i] = (gated_mlp if ffn.gated else mlp).Config(hidden_dim=ffn.hidden_dim, activation=ffn.activation)

    def change(number: int, ffn: moe.Config, leaves: Mapping) -> dict:
        weights = jnp.asarray(load[number], jnp.float32)
        if weights.shape != (ffn.num_experts,) or not (jnp.all(weights >= 0) and jnp.sum(weights) > 0):
            raise ValueError(f"load[{number}]={weights} must be num_experts={ffn.num_experts} shares, not all 0")
        share = weights / jnp.sum(weights)
        return {name: jnp.tensordot(share, leaves[name], 1) for name in MATRICES if name in leaves}

    return _changed(model, params, dense, change)


def _chosen(model, layers, kinds) -> list[int]:
    """The numbers of the layers that change. Raises ValueError where one has not one ffn of these kinds of its own."""
    blocks = model.layers.blocks
    chosen = sorted(set(layers)) or list(range(len(blocks)))
    for i in chosen:
        if not 0 <= i < len(blocks):
            raise ValueError(f"layers={tuple(layers)} must be from 0 to {len(blocks) - 1}")
        found = [part for part in blocks[i].sublayers if isinstance(part, FFNS)]
        if len(found) != 1 or not isinstance(found[0], kinds) or blocks[i].group:
            names = " or ".join(kind.__module__.rsplit(".", 1)[-1] for kind in kinds)
            raise ValueError(f"layer {i} must hold one {names}, with parameters of its own; it is {blocks[i].labels}")
    return chosen


def _place(layer: block.Config) -> int:
    """Where the ffn stands among a layer's sublayers."""
    return next(i for i, part in enumerate(layer.sublayers) if isinstance(part, FFNS))


def _ffn(model, number: int):
    layer = model.layers.blocks[number]
    return layer.sublayers[_place(layer)]


def _must_match(experts: moe.Config, ffn) -> None:
    gated = isinstance(ffn, gated_mlp.Config)
    for name, have, want in (
        ("hidden_dim", experts.hidden_dim, ffn.hidden_dim),
        ("activation", experts.activation, ffn.activation),
        ("gated", experts.gated, gated),
        ("bias", False, ffn.bias),
    ):
        if have != want:
            raise ValueError(f"{name}={have!r} of the experts must be {want!r}, the dense ffn's")


def _fresh(experts: moe.Config, embed_dim: int, key) -> dict:
    """A mixture's initial parameters but for its experts' matrices."""
    tokens = jnp.zeros((1, 1), jnp.int32)
    context = Context(positions=positions_of(tokens), tokens=tokens)
    fresh = unbox(experts.make().init(key, jnp.zeros((1, 1, embed_dim)), context)["params"])
    return {name: leaf for name, leaf in fresh.items() if name not in MATRICES}


def _changed(model, params: Mapping, new: Mapping[int, Any], change) -> tuple[Any, tree.Tree]:
    """The model with these ffns in these layers, and its parameters, theirs by `change(number, old ffn, its leaves)`.

    What is called after a sublayer, norms too, is called after the new one.
    """
    blocks, layers = list(model.layers.blocks), dict(params["layers"])
    for number, ffn in new.items():
        old, place, own = blocks[number], _place(blocks[number]), dict(layers[str(number)])
        label, before = old.labels[place], old.sublayers[place]
        own[label] = change(number, before, own[label])
        blocks[number] = old.replace(sublayers=(*old.sublayers[:place], ffn, *old.sublayers[place + 1 :]))
        both = list(zip(old.labels, blocks[number].labels))
        names = {theirs + end: ours + end for theirs, ours in both for end in ("", "_norm", "_post_norm")}
        layers[str(number)] = {names.get(name, name): leaf for name, leaf in own.items()}
    return model.replace(layers=_regrouped(model.layers, tuple(blocks))), dict(params) | {"layers": layers}


def _regrouped(layers: stack.Config, blocks: tuple[block.Config, ...]) -> stack.Config:
    """The same prefix and suffix around the shortest period of the layers between."""
    begin, end = len(layers.prefix), len(blocks) - len(layers.suffix)
    between, count = blocks[begin:end], end - begin
    period = next(p for p in range(1, count + 1) if count % p == 0 and between == between[:p] * (count // p))
    parts = dict(prefix=blocks[:begin], pattern=between[:period], suffix=blocks[end:])
    return layers.replace(**parts, repeats=count // period)
