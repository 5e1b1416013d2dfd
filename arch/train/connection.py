"""The self-check before a run's first step: the balance losses of each mixture of experts reach its router.

    d L_name / d W_router   is finite, and not zero, of each layer and each of its balance losses alone

A loss that is cut off from its router has the value that it should have, and teaches nothing. So the gradient is taken
here, of that loss without all other terms, through the model's stacks and the run's objective: scanned, rematerialised,
on the mesh, with a key, on real rows, one a shard of the batch. It is about the connection, not about the router that
there is: routers are drawn at random, and the experts' last matrices are zero, so that a router reaches the loss of its
own layer and no later one's. Where the load happens to be even, f.P is flat: a loss is disconnected when it is flat at
each of several draws. To compile in a second or two, the model goes without its mixers where every block has an ffn.
"""

import dataclasses
import functools
import logging
import time
import zlib

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from arch import tree
from arch.data import dataset
from arch.layers import block, stack
from arch.sharding import mesh as meshes
from arch.train import stages
from arch.train.mixtures import mixtures
from arch.train.objective import objective, totals
from arch.train.setup import Setup
from arch.typing import Array, Key

log = logging.getLogger("arch")

DRAWS = 8
"""How many random routers may find the load even: of two experts and eight tokens, one in four does."""


class DisconnectedError(ValueError):
    """A balance loss does not reach its router; the message names the layer, the parameter and the loss."""


def must_reach(setup: Setup, params: tree.Tree, rows: dict, key: Key[Array, ""]) -> None:
    """Raises DisconnectedError unless each balance loss of the run reaches the router of its layer.

    Args:
      setup: of the run; its mesh is set.
      params: as the step takes them; their values count for little.
      rows: this process's rows of a global batch.
      key: for the draws.
    """
    left = {(place.params, name) for place, layer in mixtures(setup.cfg.model) for name in layer.balancing}
    if not left:
        return
    start = time.perf_counter()
    cfg, names = setup.cfg, tuple(sorted({name for _, name in left}))
    gradient = _compiled(cfg.model, cfg.task, cfg.loss, names, setup.mesh)
    batch = meshes.global_batch(_few(setup, dataset.without_ids(rows)), setup.mesh)
    for draw in range(DRAWS):
        found = gradient(params, batch, jax.random.fold_in(key, draw))
        found = {name: tree.paths(tree.unstack(each)) for name, each in jax.device_get(found).items()}
        for path, name in sorted(left):
            if not np.isfinite(found[name][f"{path}/router"]).all():
                raise DisconnectedError(f"the gradient of {_which(path, name)} is not finite")
        left = {(path, name) for path, name in left if not np.any(found[name][f"{path}/router"])}
        if not left:
            break
    if left:
        raise DisconnectedError(f"the gradient of {_which(*min(left))} is zero: it is disconnected, or always even")
    log.info("the balance losses reach their routers (checked in %.1f s)", time.perf_counter() - start)


def _without_mixers(model_cfg):
    """The model with ffns alone, under the same names, where each block has one; else the model as it is."""
    changes = {}
    for field in dataclasses.fields(model_cfg):
        layers = getattr(model_cfg, field.name)
        if isinstance(layers, stack.Config):
            if not all(map(_ffns, layers.blocks)):
                return model_cfg
            left = {part: tuple(map(_ffns_alone, getattr(layers, part))) for part in ("prefix", "pattern", "suffix")}
            changes[field.name] = layers.replace(**left)
    return model_cfg.replace(**changes)


def _ffns(layer: block.Config) -> tuple:
    return tuple(each for each in layer.sublayers if type(each).__module__.startswith("arch.ffns."))


def _ffns_alone(layer: block.Config) -> block.Config:
    return layer.replace(sublayers=_ffns(layer))


def _which(path: str, name: str) -> str:
    return f"the loss '{name}' of {path} by {path}/router"


def _few(setup: Setup, rows: dict) -> dict:
    """As many of this process's rows as make one row a shard."""
    each = setup.cfg.batch_size // meshes.batch_shards(setup.mesh)
    return jax.tree.map(lambda leaf: leaf[: len(leaf) // each], rows)


@functools.lru_cache(maxsize=4)
def _compiled(model_cfg, task, loss, names: tuple[str, ...], mesh: Mesh):
    """The function (params, batch, key) -> {loss: its gradient by all routers}, as a tree in the params' form."""
    model = stages.one_each(_without_mixers(model_cfg)).make()

    def gradients(params, batch, key):
        flat = tree.paths(params)
        routers = {path: _drawn(path, leaf, key) for path, leaf in flat.items() if path.endswith("/router")}
        last = {path.removesuffix("router") + "down" for path in routers}
        others = {path: jnp.zeros_like(leaf) if path in last else leaf for path, leaf in flat.items()}

        def losses(routers):
            whole = tree.from_paths(others | routers)
            found = objective(model, whole, batch, totals(task, batch), key, task=task, loss=loss)[1]["losses"]
            return {name: found[name] for name in names}

        values, pull = jax.vjp(losses, routers)
        alone = lambda name: {other: jnp.asarray(other == name, leaf.dtype) for other, leaf in values.items()}
        return {name: tree.from_paths(pull(alone(name))[0]) for name in names}

    whole = NamedSharding(mesh, PartitionSpec())
    quick = {"xla_backend_optimization_level": 0} if meshes.platform() == "cpu" else {}
    return jax.jit(gradients, out_shardings=whole, compiler_options=quick)


def _drawn(path: str, like: Array, key: Key[Array, ""]) -> Array:
    """A random router."""
    draw = jax.random.normal(jax.random.fold_in(key, zlib.crc32(path.encode())), like.shape, like.dtype)
    return draw * like.shape[-2] ** -0.5
