"""A stack of blocks: a prefix, a period that repeats, a suffix.

The repeated part is scanned, so that it compiles once, and rematerialised by a named policy. The same module also takes
parameters in canonical form (`tree.unstack`) and then runs the layers one after the other: that is how decoding goes,
with one cache a layer. This is the only file with lifted transforms. On a mesh with stages the repeated part is a
pipeline (`arch.layers.staged`).
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Annotated, Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_policies

from arch import config
from arch.layers import block, staged
from arch.layers.contract import Aux, Context, Output
from arch.layers.flops import Flops, Row
from arch.layers.weight import unbox
from arch.ops.linear import PRODUCT
from arch.sharding import pipeline as pipelines
from arch.sharding.mesh import constrain
from arch.typing import Array, Float

Remat = Literal["none", "dots", "full", "offload"]


POLICIES = {
    "dots": checkpoint_policies.save_from_both_policies(
        checkpoint_policies.dots_with_no_batch_dims_saveable, checkpoint_policies.save_only_these_names(PRODUCT)
    ),
    "full": checkpoint_policies.nothing_saveable,
    "offload": checkpoint_policies.save_and_offload_only_these_names(
        names_which_can_be_saved=[],
        names_which_can_be_offloaded=[block.LAYER_INPUT],
        offload_src="device",
        offload_dst="pinned_host",
    ),
}
"""What a rematerialised block keeps for the backward pass, beside its input."""


MAX_REPEATS = 10_000
"""How often a period may repeat: all layers are listed where each is looked at."""


@config.frozen
class Config(config.Config):
    """The layers: prefix + pattern * repeats + suffix.

    Attributes:
      pattern: the blocks of one period.
      repeats: how often the period repeats; at most MAX_REPEATS.
      prefix: blocks before the repeated part.
      suffix: blocks after it.
      remat: what the backward pass computes again: 'none', all but matrix products ('dots'), everything ('full'), or
        everything with the layers' inputs kept in host memory ('offload', where the device has one).
      pipeline: how the repeated part is passed on a mesh with stages.
    """

    pattern: tuple[block.Config, ...]
    repeats: Annotated[int, config.Range(1, MAX_REPEATS)] = 1
    prefix: tuple[block.Config, ...] = ()
    suffix: tuple[block.Config, ...] = ()
    remat: Remat = "none"
    pipeline: pipelines.Config = pipelines.Config()

    def check(self):
        groups: dict[str, config.Config] = {}
        for i, layer in enumerate(self.blocks):
            for name, part in layer.groups().items():
                if groups.setdefault(name, part) != part:
                    raise ValueError(f"group={name!r} of layer {i} must hold equal blocks: they share parameters")
        if not self.pattern:
            raise ValueError("pattern=() must hold at least one block")

    @property
    def blocks(self) -> tuple[block.Config, ...]:
        """All layers in order."""
        return self.prefix + self.pattern * self.repeats + self.suffix

    @property
    def scan_name(self) -> str:
        """Of the stacked parameters: it tells where they start and the period's length (see `arch.tree`)."""
        return f"scan_{len(self.prefix)}_{len(self.pattern)}"

    @property
    def reads_embedding(self) -> bool:
        """Whether a layer reads what the first one does."""
        return any(sublayer.reads_embedding for layer in self.blocks for sublayer in layer.sublayers)

    def make(self, name: str | None = None) -> "Stack":
        """The Linen module."""
        return Stack(self, name=name)

    def init_cache(self, batch: int, length: int, embed_dim: int, dtype: Any) -> tuple[dict, ...]:
        """One empty cache a layer."""
        return tuple(layer.init_cache(batch, length, embed_dim, dtype) for layer in self.blocks)

    def flops(self, row: Row) -> Flops:
        """Of all layers, those that share their parameters too."""
        return sum((layer.flops(row) for layer in self.blocks), Flops())

    def idle_parameters(self, embed_dim: int) -> int:
        """Of all layers (see `SublayerConfig.idle_parameters`), those that share their parameters once."""
        layers = {layer.group or i: layer for i, layer in enumerate(self.blocks)}
        return sum(layer.idle_parameters(embed_dim) for layer in layers.values())

    def update(self, buffers: Mapping, stats: Mapping) -> dict:
        """The next non-trained leaves, in canonical form (see `SublayerConfig.update`).

        Layers that share a group share its leaves too; their statistics are averaged.
        """
        out = dict(buffers)
        for name in buffers:
            users = [i for i, layer in enumerate(self.blocks) if (layer.group or str(i)) == name]
            each = [_under(stats, str(i)) for i in users]
            mean = jax.tree.map(lambda *values: sum(values) / len(values), *each)
            out[name] = self.blocks[users[0]].update(buffers[name], mean)
        return out


def _under(stats: Mapping, layer: str) -> dict:
    return {name.removeprefix(f"{layer}/"): v for name, v in stats.items() if name.startswith(f"{layer}/")}


class Stack(nn.Module):
    """The contract's function over all layers; its cache is a tuple, one entry a layer."""

    cfg: Config

    @nn.compact
    def __call__(self, x: Float[Array, "b t d"], context: Context, cache: Sequence | None = None) -> Output:
        cfg = self.cfg
        scanned = cfg.repeats > 1 and (self.is_initializing() or self.has_variable("params", cfg.scan_name))
        if scanned and cache is not None:
            raise ValueError("a cache needs the parameters one layer at a time: call arch.tree.unstack on them first")
        remat = "none" if cache is not None else cfg.remat
        if cfg.reads_embedding:
            context = dataclasses.replace(context, embedding=constrain(x, "batch", "sequence", None))
        carry, aux, caches = (x, dict(context.shared)), Aux(), []

        def unrolled(begin, end):
            nonlocal carry, aux
            for i in range(begin, end):
                layer, old = cfg.blocks[i], None if cache is None else cache[i]
                read = self._with_groups((layer,), carry, context)
                make = _block(layer, remat, str(i), prevent_cse=True)
                carry, new, some = _run(make, carry, read, i, old)
                caches.append(new)
                aux += some.under(str(i))

        begin, end = len(cfg.prefix), len(cfg.prefix) + len(cfg.pattern) * cfg.repeats
        if scanned:
            unrolled(0, begin)
            carry, some = self._scan(carry, self._with_groups(cfg.pattern, carry, context))
            aux += some
            unrolled(end, len(cfg.blocks))
        else:
            unrolled(0, len(cfg.blocks))
        x, shared = carry
        return Output(x, None if cache is None else tuple(caches), aux, shared)

    def _with_groups(self, layers, carry, context) -> Context:
        """The context with the parameters of these layers' groups, created at init by one call that nobody reads."""
        for name, part in {name: part for layer in layers for name, part in layer.groups().items()}.items():
            if self.is_initializing() and not self.has_variable("params", name):
                _run(part.make(name), carry, context, 0, None)
            parameters = context.parameters | {name: unbox(self.get_variable("params", name))}
            context = dataclasses.replace(context, parameters=parameters)
        return context

    def _scan(self, carry, context):
        """The repeated part: one period, scanned over its stacked parameters."""
        cfg = self.cfg
        begin, step = len(cfg.prefix), len(cfg.pattern)
        if (context.passing or pipelines.stages() > 1) and not self.is_initializing():

            def staged_period(stacked, number, carry, context):
                make = lambda j, layer: _stacked_block(layer, cfg.remat, str(j), stacked)
                return _period(cfg, make, carry, begin + step * number, context)

            weights = unbox(self.get_variable("params", cfg.scan_name))
            passing = context.passing or partial(staged.scan, cfg=cfg.pipeline)
            carry, aux = passing(staged_period, weights, carry, dataclasses.replace(context, passing=None))
        else:
            period = nn.scan(
                Period,
                variable_axes={"params": 0},
                split_rngs={"params": True},
                in_axes=(0, nn.broadcast),
                length=cfg.repeats,
                metadata_params={},
            )
            first_layers = begin + step * jnp.arange(cfg.repeats)
            carry, aux = period(cfg, name=cfg.scan_name)(carry, first_layers, context)
        stats = {}
        for name, values in aux.stats.items():
            j, rest = name.split("/", 1)
            stats |= {f"{begin + i * step + int(j)}/{rest}": values[i] for i in range(cfg.repeats)}
        return carry, Aux(jax.tree.map(lambda loss: jnp.sum(loss, axis=0), aux.losses), stats)


class Period(nn.Module):
    """The blocks of one period, as the body of a scan."""

    cfg: Config

    @nn.compact
    def __call__(self, carry, first_layer, context: Context):
        make = lambda j, layer: _block(layer, self.cfg.remat, str(j), prevent_cse=False)
        return _period(self.cfg, make, carry, first_layer, context)


def _period(cfg: Config, make: Callable, carry, first_layer, context: Context):
    """One period, of whose j-th layer `make(j, layer)` gives the function."""
    aux, names = Aux(), sorted(carry[1])
    for j, layer in enumerate(cfg.pattern):
        carry, _, some = _run(make(j, layer), carry, context, first_layer + j, None)
        aux += some.under(str(j))
    if sorted(carry[1]) != names:
        raise ValueError(f"shared names {sorted(carry[1])} must be {names} before and after a repeated period: a "
                         "prefix block has to write the new ones first")
    return carry, aux


def _block(layer: block.Config, remat: Remat, name: str, *, prevent_cse: bool):
    """The function (x, context, cache) -> Output of a layer with its own parameters or its group's."""
    module = block.Block
    if remat != "none":
        module = nn.remat(block.Block, policy=POLICIES[remat], prevent_cse=prevent_cse)
    if layer.group:
        shared = module(layer, parent=None)
        return lambda x, context, cache: shared.apply({"params": context.parameters[layer.group]}, x, context, cache)
    return module(layer, name=name)


def _stacked_block(layer: block.Config, remat: Remat, name: str, stacked: pipelines.Stacked) -> Callable:
    """As `_block`, of a layer in a pipeline. With remat 'none' the weights that it takes are kept of each tick."""

    def run(stacked, x, context, cache):
        params = context.parameters[layer.group] if layer.group else stacked.take()
        return block.Block(layer, parent=None).apply({"params": params}, x, context, cache)

    if remat != "none":
        run = jax.checkpoint(run, policy=POLICIES[remat], prevent_cse=False)
    return partial(run, dataclasses.replace(stacked, leaves=stacked.leaves.get(name)))


def _run(make, carry, context: Context, index, cache):
    """One layer: reads what the layers before it shared, with its own key and routes, and shares what it adds."""
    x, shared = carry
    x = constrain(x, "batch", "sequence", None)
    routes = context.routes and context.routes.of(index)
    out = make(x, dataclasses.replace(context.fold(index), shared=shared, routes=routes), cache)
    return (out.x, shared | out.shared), out.cache, out.aux
