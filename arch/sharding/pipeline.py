"""Pipelines: the repeated layers lie on the devices of the mesh axis `stage`, and parts of the batch pass through them.

    part r S + s of the layers is that of stage s in round r
    stage s has at tick k, with u = k - s, in round r = (u div S) mod R the micro-batch m = S (u div R S) + u mod S,
    and idles where u < 0 or u >= M R:    ticks = M R + S - 1,    bubble = (S - 1) / (M R + S - 1)

with S stages, R rounds and M micro-batches. One round is GPipe: Huang et al., GPipe: Efficient Training of Giant Neural
Networks using Pipeline Parallelism, 2018, arXiv 1811.06965, sec. 2.3. More are the interleaved schedule of Narayanan et
al., Efficient Large-Scale Language Model Training on GPU Clusters Using Megatron-LM, 2021, arXiv 2104.04473, sec. 2.2,
of all forward passes and then all backward ones: S micro-batches go round the ring R times before the next S enter, so
that none ever waits. The gradient of the loop is the same pipeline in reverse, with the same bubble. Each device keeps
for it what its layers keep of all ticks: what they would of the batch without stages, times 1 / (1 - bubble).

A stage is one shard of a `shard_map` along `stage` alone; the compiler places its arrays along all other axes. A stage
that idles computes all the same, on rows that are not its turn, and nothing of that is kept: not even an infinity would
reach a loss or a gradient.
"""

import dataclasses
import math
from collections.abc import Callable, Iterable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import AbstractMesh, Mesh, PartitionSpec
from jax.tree_util import register_dataclass

from arch import config
from arch.sharding import mesh as meshes
from arch.typing import Array, Bool, Int, Shaped

(AXIS,) = meshes.RULES["layers"]


@config.frozen
class Config(config.Config):
    """How a stack's repeated layers are passed on a mesh with stages; without, it changes nothing.

    Attributes:
      micro_batches: parts of a batch that follow each other through the stages, a multiple of `mesh.stage`; 0 for as
        many as stages.
      rounds: how often a micro-batch passes all stages, each time through other layers. More make the bubble smaller,
        and send as many times as many messages, and the layers to their stages in each step.
      schedule: of training: 'gpipe' for all forward passes and then all backward ones, or '1f1b' for each backward pass
        as early as it can be (`arch.sharding.one_forward_one_backward`), which keeps less and computes more again.
    """

    micro_batches: config.NonNegativeInt = 0
    rounds: config.PositiveInt = 1
    schedule: Literal["gpipe", "1f1b"] = "gpipe"

    def check(self):
        if self.schedule == "1f1b" and self.rounds > 1:
            raise ValueError(f"rounds={self.rounds} must be 1 with schedule='1f1b'")

    def parts(self, num_stages: int) -> int:
        """M."""
        return self.micro_batches or num_stages

    def ticks(self, num_stages: int) -> int:
        """How often stages compute one part of the layers for one micro-batch, one behind the other."""
        return self.parts(num_stages) * self.rounds + num_stages - 1

    def bubble(self, num_stages: int) -> float:
        """The share of the ticks in which a stage idles: (S - 1) / (M R + S - 1)."""
        return (num_stages - 1) / self.ticks(num_stages)


def stages(mesh: Mesh | AbstractMesh | None = None) -> int:
    """How many a mesh has, that of `jax.set_mesh` unless given; 1 inside one of them."""
    mesh = jax.sharding.get_abstract_mesh() if mesh is None else mesh
    return mesh.shape[AXIS] if AXIS in meshes.auto_axes(mesh) else 1


def must_divide(cfg: Config, repeats: int, num_rows: int, mesh: Mesh | AbstractMesh) -> None:
    """Raises ValueError unless repeated layers split into stages, and rows into micro-batches on all shards."""
    size = stages(mesh)
    if size == 1:
        return
    if repeats % (size * cfg.rounds):
        raise ValueError(
            f"repeats={repeats} must be a multiple of mesh.stage={size} times pipeline.rounds={cfg.rounds}: what "
            "does not divide can stand in prefix or suffix"
        )
    if cfg.micro_batches % size:
        raise ValueError(f"pipeline.micro_batches={cfg.micro_batches} must be a multiple of mesh.stage={size}")
    parts, shards = cfg.parts(size), meshes.batch_shards(mesh) // size
    if num_rows % (parts * shards):
        raise ValueError(
            f"{num_rows} rows of a batch must be a multiple of {parts * shards}: pipeline.micro_batches={parts} times "
            f"{shards}, the parts that each is split into"
        )


def turn(tick, stage, num_stages: int, cfg: Config):
    """(whether a stage is busy at a tick, the round, the micro-batch): of whole numbers, or of arrays of them.

    A stage that idles gets some round and micro-batch, too.
    """
    parts = cfg.parts(num_stages)
    u = tick - stage
    busy = (u >= 0) & (u < parts * cfg.rounds)
    m = num_stages * (u // (cfg.rounds * num_stages)) + u % num_stages
    return busy, u // num_stages % cfg.rounds, jnp.clip(m, 0, parts - 1)


def micro_batches(leaf: Shaped[Array, "b ..."], cfg: Config) -> Shaped[Array, "m _ ..."]:
    """The rows of a batch in M parts. A stage has M / S of them, so that no row leaves its device."""
    before, size, after = (math.prod(_sizes(names).values()) for names in _around())
    split = leaf.reshape(before, size, after, cfg.parts(size) // size, -1, *leaf.shape[1:])
    split = jnp.moveaxis(split, (1, 3), (0, 1)).reshape(cfg.parts(size), -1, *leaf.shape[1:])
    others = tuple(name for name, count in _sizes(meshes.RULES["batch"]).items() if count > 1 and name != AXIS)
    rest = [PartitionSpec.UNCONSTRAINED] * (leaf.ndim - 1)
    return lax.with_sharding_constraint(split, PartitionSpec(AXIS, others or None, *rest))


def together(leaf: Shaped[Array, "m _ ..."]) -> Shaped[Array, "b ..."]:
    """The inverse of `micro_batches`."""
    before, size, after = (math.prod(_sizes(names).values()) for names in _around())
    split = leaf.reshape(size, leaf.shape[0] // size, before, after, -1, *leaf.shape[2:])
    return jnp.moveaxis(split, (0, 1), (1, 3)).reshape(-1, *leaf.shape[2:])


def _around() -> tuple[tuple[str, ...], ...]:
    """The axes that split rows: those before `stage`, it, and those behind it."""
    names = meshes.RULES["batch"]
    place = names.index(AXIS)
    return names[:place], (AXIS,), names[place + 1 :]


def _sizes(names: Iterable[str]) -> dict[str, int]:
    """Of axes of the mesh."""
    mesh = jax.sharding.get_abstract_mesh()
    return {name: mesh.shape[name] for name in names}


@register_dataclass
@dataclasses.dataclass(frozen=True)
class Stacked:
    """A layer's weights among all of its stage. What is rematerialised takes them out itself, and so keeps no copy.

    Attributes:
      leaves: [layers ...] a tree.
      place: of the layer.
      busy: whether the stage is; gradients come from busy ticks alone.
    """

    leaves: Any
    place: Int[Array, ""]
    busy: Bool[Array, ""]

    def take(self) -> Any:
        """The layer's."""
        return _counting(self.busy, at(self.leaves, self.place))


def run(layer: Callable, weights: Any, carry: Any, rows: Any, alike: Any, *, cfg: Config) -> tuple[Any, Any]:
    """A scan over repeated layers, in stages, on the mesh that `jax.set_mesh` set.

    Args:
      layer: layer(weights, number, micro_batch, carry, rows, alike) -> (carry, sums): the body of the scan, for some
        rows; weights are `Stacked`, sums a tree of arrays.
      weights: [repeats ...] what the layers have of their own: a tree.
      carry: [M b/M ...] what goes through them, by `micro_batches`: a tree.
      rows: [M b/M ...] what they read of the same rows: a tree.
      alike: what they read beside that: a tree.
      cfg: of the pipeline.

    Returns:
      The carry behind all layers, and [repeats ...] the means of the sums over the micro-batches.
    """
    size, rounds = stages(), cfg.rounds
    parts, ring = cfg.parts(size), [(i, (i + 1) % size) for i in range(size)]

    def on_stage(stage, weights, carry, rows, alike):
        (stage,) = stage
        weights = jax.tree.map(lambda leaf: _own_parts(leaf, stage, size, rounds), weights)
        layers = jnp.arange(jax.tree.leaves(weights)[0].shape[0] // rounds)
        everyones, rows = jax.tree.map(lambda leaf: _everyones(leaf, size), (carry, rows))

        def compute(busy, r, m, carry):
            carry, *read = _counting(busy, (carry, at(rows, m), alike))
            step = lambda carry, which: layer(Stacked(weights, which[0], busy), which[1], m, carry, *read)
            return lax.scan(step, carry, (r * layers.size + layers, (r * size + stage) * layers.size + layers))

        def tick(state, k):
            carry, everyones, sums = state
            busy, r, m = turn(k, stage, size, cfg)
            before = at(everyones, m)
            carry, found = compute(busy, r, m, where((stage == 0) & (r == 0), before, carry))
            put = lambda leaf, new: lax.dynamic_update_index_in_dim(leaf, new, m, 0)
            everyones = jax.tree.map(put, everyones, where(busy, carry, before))
            sums = jax.tree.map(lambda total, new: total.at[r].add(jnp.where(busy, new, 0)), sums, found)
            return (jax.tree.map(lambda leaf: lax.ppermute(leaf, AXIS, ring), carry), everyones, sums), None

        first = at(everyones, 0)
        _, like = jax.eval_shape(compute, jnp.bool(True), jnp.int32(0), jnp.int32(0), first)
        sums = jax.tree.map(lambda leaf: jnp.zeros((rounds, *leaf.shape), leaf.dtype), like)
        (_, everyones, sums), _ = lax.scan(tick, (first, everyones, sums), jnp.arange(cfg.ticks(size)))
        return jax.tree.map(lambda leaf: _last_stages(leaf, size), everyones), sums

    split, whole = PartitionSpec(AXIS), PartitionSpec()
    mapped = jax.shard_map(
        on_stage,
        mesh=jax.sharding.get_abstract_mesh(),
        in_specs=(split, split, split, split, whole),
        out_specs=split,
        axis_names={AXIS},
        check_vma=False,
    )
    carry, sums = mapped(jnp.arange(size), weights, carry, rows, alike)
    in_order = lambda leaf: leaf.reshape(size, rounds, *leaf.shape[1:]).swapaxes(0, 1).reshape(-1, *leaf.shape[2:])
    return carry, jax.tree.map(lambda leaf: in_order(leaf) / parts, sums)


def _everyones(leaf: Shaped[Array, "m ..."], size: int) -> Shaped[Array, "_ ..."]:
    """Inside a stage: the micro-batches of all. No sum of gradients is sent: XLA's CPU code cannot in bfloat16."""
    got = lax.all_to_all(jnp.broadcast_to(leaf, (size, *leaf.shape)), AXIS, 0, 0)
    return got.reshape(-1, *leaf.shape[1:])


def _last_stages(leaf: Shaped[Array, "m ..."], size: int) -> Shaped[Array, "_ ..."]:
    """Inside a stage: its own micro-batches, of all those that the last stage has."""
    return lax.all_to_all(leaf.reshape(size, -1, *leaf.shape[1:]), AXIS, 0, 0)[-1]


def _own_parts(leaf: Shaped[Array, "l ..."], stage, size: int, rounds: int) -> Shaped[Array, "l ..."]:
    """Inside a stage: the layers of its parts s, S + s, ... where it has those of the parts R s to R s + R - 1 at rest.

    In as many messages as rounds, each from every stage to another one (or itself): exchange c sends of stage s part
    R s + (c + s g div S) mod R, with g the greatest common divisor of R and S.
    """
    if rounds == 1:
        return leaf
    held, shift = leaf.reshape(rounds, -1, *leaf.shape[1:]), math.gcd(rounds, size)
    own = jnp.zeros_like(held)
    for c in range(rounds):
        sent = [(c + s * shift // size) % rounds for s in range(size)]
        part = [rounds * s + place for s, place in enumerate(sent)]
        to = {number % size: number // size for number in part}
        got = lax.ppermute(at(held, jnp.array(sent)[stage]), AXIS, [(s, n % size) for s, n in enumerate(part)])
        own = lax.dynamic_update_index_in_dim(own, got, jnp.array([to[s] for s in range(size)])[stage], 0)
    return own.reshape(leaf.shape)


def _counting(busy, tree: Any) -> Any:
    """The same tree, to which gradients come from busy ticks alone."""
    real = lambda leaf: jnp.issubdtype(leaf.dtype, jnp.inexact)
    return jax.tree.map(lambda leaf: _when(busy, leaf) if real(leaf) else leaf, tree)


@jax.custom_vjp
def _when(busy, leaf):
    return leaf


_when.defvjp(lambda busy, leaf: (leaf, busy), lambda busy, gradient: (None, jnp.where(busy, gradient, 0)))


def at(tree: Any, index) -> Any:
    """The leaves' entries of this index along their first axis."""
    return jax.tree.map(lambda leaf: lax.dynamic_index_in_dim(leaf, index, keepdims=False), tree)


def where(condition, one: Any, other: Any) -> Any:
    """Leaf by leaf."""
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), one, other)
