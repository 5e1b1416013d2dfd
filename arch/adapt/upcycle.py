"""Upcycling: a dense model becomes a mixture of experts that computes the same at first; `experts` has the ways back.

    expert_i = the dense ffn, for each i;   y = sum_i w_i expert_i(x) = ffn(x),   for sum_i w_i = 1

Komatsuzaki et al., Sparse Upcycling: Training Mixture-of-Experts from Dense Checkpoints, 2022, arXiv 2212.05055, sec.
3: each ffn is copied, the router is fresh, all else stays. That no token is dropped and that its weights sum to one is
what makes the first step's loss the dense model's: so routers that drop, scale, or leave weights undivided are refused.

Pure functions: (config, parameters by canonical path) -> the same of another model.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from arch import tree
from arch.adapt._ffns import DENSE, MATRICES, SPARSE, changed, chosen_layers, ffn_of, has_one, with_ffns
from arch.ffns import gated_mlp, moe
from arch.layers.contract import Context, positions_of
from arch.layers.weight import unbox
from arch.routers import gshard
from arch.routers._limited import Limited
from arch.typing import Array, Key


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
    chosen = chosen_layers(model, layers, DENSE)
    return _grown(model, params, dict.fromkeys(chosen, experts), key=key, noise=noise)


def upcycle_to(
    model: Any, params: Mapping, target: Any, *, key: Key[Array, ""], noise: float = 0.0
) -> tuple[Any, tree.Tree]:
    """The model with the mixtures of another one's config in place of its ffns, and its parameters.

    What else the target has otherwise than the model is left as the model has it.

    Args:
      model, params, key, noise: as in `upcycle`.
      target: config of a model of as many layers, some of which have a mixture where the model has an ffn.

    Raises:
      ValueError: as `upcycle`; the layers are more or fewer, or none has a mixture where there was an ffn.
    """
    count, wanted = len(model.layers.blocks), len(target.layers.blocks)
    if count != wanted:
        raise ValueError(f"the model's {wanted} layers must be {count}, as many as the dense model's")
    kinds = [(_kind(model, i), _kind(target, i)) for i in range(count)]
    new = {i: ffn_of(target, i) for i, (old, kind) in enumerate(kinds) if (old, kind) == (DENSE, SPARSE)}
    if not new:
        raise ValueError("no layer of the model has a mixture of experts where the dense model has an ffn")
    return _grown(model, params, new, key=key, noise=noise)


def with_mixtures(model: Any, *, num_experts: int, top_k: int) -> Any:
    """The config of a model with top-k mixtures, as wide and of the same activation, in place of all of its ffns."""

    def mixture(ffn) -> moe.Config:
        sizes = dict(num_experts=num_experts, top_k=top_k, hidden_dim=ffn.hidden_dim)
        return moe.Config(**sizes, activation=ffn.activation, gated=isinstance(ffn, gated_mlp.Config))

    return with_ffns(model, {i: mixture(ffn_of(model, i)) for i in chosen_layers(model, (), DENSE)})


def _kind(model: Any, number: int) -> tuple:
    """DENSE or SPARSE; () of a layer without an ffn."""
    return next((kind for kind in (DENSE, SPARSE) if has_one(model, number, kind)), ())


def _grown(model: Any, params: Mapping, new: Mapping[int, moe.Config], *, key, noise: float) -> tuple[Any, tree.Tree]:
    """The model with these mixtures in these layers, their experts copies of what was there."""
    for number, experts in new.items():
        _must_add_to_one(experts)
        _must_match(number, experts, ffn_of(model, number))

    def change(number: int, ffn, leaves: Mapping) -> dict:
        start, own = jax.random.split(jax.random.fold_in(key, number))
        fresh, copies = _fresh(new[number], leaves["up"].shape[0], start), {}
        for i, name in enumerate(sorted(leaves)):
            copy = jnp.broadcast_to(leaves[name], (new[number].num_experts, *leaves[name].shape))
            if noise:
                random = jax.random.normal(jax.random.fold_in(own, i), copy.shape, copy.dtype)
                copy += noise * jnp.std(copy) * random
            copies[name] = copy
        return fresh | copies

    return changed(model, params, new, change)


def _must_add_to_one(experts: moe.Config) -> None:
    router = experts.router
    if experts.shared_dim or not experts.renormalize:
        found = f"shared_dim={experts.shared_dim} and renormalize={experts.renormalize}"
        raise ValueError(f"{found} must be 0 and True: a token's experts must add up to the dense ffn")
    if router.mixes:
        raise ValueError(f"router={router.label!r} must choose experts, not mix what they read")
    if getattr(router, "scale", 1.0) != 1.0:
        raise ValueError(f"scale={router.scale} of router={router.label!r} must be 1: weights must sum to one")
    if isinstance(router, Limited) and not router.drops_nothing(experts.demand, training=True):
        least = experts.num_experts / experts.top_k
        found = f"capacity_factor={router.capacity_factor} of router={router.label!r}"
        raise ValueError(f"{found} must be at least num_experts / top_k = {least:g}, which drops no token")
    if isinstance(router, gshard.Config) and router.random_second:
        raise ValueError("random_second=True of router='gshard' must be False: it drops second experts by chance")


def _must_match(number: int, experts: moe.Config, ffn: Any) -> None:
    gated = isinstance(ffn, gated_mlp.Config)
    for name, have, want in (
        ("hidden_dim", experts.hidden_dim, ffn.hidden_dim),
        ("activation", experts.activation, ffn.activation),
        ("gated", experts.gated, gated),
        ("bias", False, ffn.bias),
    ):
        if have != want:
            raise ValueError(f"{name}={have!r} of the experts must be {want!r}, the dense ffn's of layer {number}")


def _fresh(experts: moe.Config, embed_dim: int, key) -> dict:
    """A mixture's initial parameters but for its experts' matrices."""
    tokens = jnp.zeros((1, 1), jnp.int32)
    context = Context(positions=positions_of(tokens), tokens=tokens)
    fresh = unbox(experts.make().init(key, jnp.zeros((1, 1, embed_dim)), context)["params"])
    return {name: leaf for name, leaf in fresh.items() if name not in MATRICES}
