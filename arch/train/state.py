"""The train state, sharded from its first moment: no array is ever whole on one device unless its rule says so."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec
from jax.tree_util import register_dataclass

from arch import tree
from arch.layers import weight
from arch.sharding import mesh as meshes
from arch.train import bad_batch, loss_scale, offload
from arch.typing import Array, Key


@register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """All that a run is, beside its config and its data.

    Attributes:
      step: [] int32, optimizer steps taken. Like all leaves, a shape or a sharding where the state is but planned.
      params: the model's parameters in scanned form, float32, trained and not.
      opt_state: the optimizer's state over the trained ones.
      average: the moving average of the parameters, in their form; {} when none is kept.
      loss_scale: a `loss_scale.LossScale`; () without loss scaling.
      watch: a `bad_batch.Watch`, what is remembered of the batches.
    """

    step: Any
    params: tree.Tree
    opt_state: Any
    average: tree.Tree = dataclasses.field(default_factory=dict)
    loss_scale: Any = ()
    watch: Any = dataclasses.field(default_factory=bad_batch.init)


@dataclasses.dataclass(frozen=True)
class Beside:
    """What a state holds beside parameters and optimizer.

    Attributes:
      average: whether a moving average of the parameters.
      loss_scale: the first loss scale; 0 for no scaling.
      host_moments: whether the optimizer's means lie in the host's memory between steps.
    """

    average: bool = False
    loss_scale: float = 0.0
    host_moments: bool = False


def beside(cfg: Any) -> Beside:
    """That of a run, by its `experiment.Config`."""
    return Beside(bool(cfg.ema.decay), cfg.first_loss_scale, cfg.optimizer.offload == "host")


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is known of a model's state before any array exists.

    Attributes:
      abstract: the state's shapes and shardings.
      trainable: True where gradient descent trains a parameter.
      axes: the logical axes of each parameter, by path.
      beside: what it holds beside parameters and optimizer.
    """

    abstract: TrainState
    trainable: tree.Tree
    axes: dict[str, tuple[str, ...]]
    beside: Beside = Beside()


def _init_boxed(model, key: Key[Array, ""]):
    """The model's parameters in boxes. Shapes do not depend on the tokens; one is a row that no mesh splits."""
    return model.init(key, jnp.zeros((1, 1), jnp.int32))["params"]


def _traced(model) -> tree.Tree:
    """The boxes of the model's parameters around shapes."""
    return jax.eval_shape(lambda key: _init_boxed(model, key), jax.random.key(0))


def shapes(model) -> tree.Tree:
    """The shapes of a model's parameters, in scanned form."""
    return weight.unbox(_traced(model))


def axes(model) -> dict[str, tuple[str, ...]]:
    """The logical axes of each of a model's parameters, by path."""
    return _axes(_traced(model))


def _axes(boxed: tree.Tree) -> dict[str, tuple[str, ...]]:
    named = tree.paths(jax.tree.map(_Axes, weight.axes(boxed), is_leaf=lambda leaf: isinstance(leaf, tuple)))
    return {path: leaf.names for path, leaf in named.items()}


def plan(
    model, optimizer: optax.GradientTransformation, mesh: Mesh | AbstractMesh, beside: Beside = Beside()
) -> Plan:
    """Traces the initialisation: shapes, shardings, what trains. Bad shapes raise here, before anything is compiled."""
    boxed = _traced(model)
    trainable, axes = weight.trainable(boxed), _axes(boxed)
    abstract = jax.eval_shape(lambda params: create(params, trainable, optimizer, beside), weight.unbox(boxed))
    return Plan(_with_shardings(abstract, axes, mesh, beside), trainable, axes, beside)


def elsewhere(plan: Plan, mesh: Mesh | AbstractMesh) -> Plan:
    """The same state on another mesh."""
    return dataclasses.replace(plan, abstract=_with_shardings(plan.abstract, plan.axes, mesh, plan.beside))


@dataclasses.dataclass(frozen=True)
class _Axes:
    """Hides a tuple of names from tree functions."""

    names: tuple[str, ...]


def create(
    params: tree.Tree, trainable: tree.Tree, optimizer: optax.GradientTransformation, beside: Beside = Beside()
) -> TrainState:
    """The state at step 0 around these parameters."""
    trained, _ = tree.partition(params, trainable)
    return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(trained), **begun(params, beside))


def begun(params: tree.Tree, beside: Beside) -> dict[str, Any]:
    """What a state begins with beside parameters and optimizer, by field of `TrainState`."""
    return {
        "average": jax.tree.map(jnp.copy, params) if beside.average else {},  # the state is donated leaf by leaf
        "loss_scale": loss_scale.init(beside.loss_scale) if beside.loss_scale else (),
        "watch": bad_batch.init(),
    }


def init(model, optimizer: optax.GradientTransformation, plan: Plan, key: Key[Array, ""]) -> TrainState:
    """A fresh state, each shard made on its own device."""

    def make(key):
        return create(weight.unbox(_init_boxed(model, key)), plan.trainable, optimizer, plan.beside)

    return jax.jit(make, out_shardings=jax.tree.map(lambda leaf: leaf.sharding, plan.abstract))(key)


def init_leaves(model, plan: Plan, key: Key[Array, ""], paths: Sequence[str]) -> dict[str, Array]:
    """The fresh values of these parameters alone, by path, where the plan places them."""
    places = tree.paths(plan.abstract.params)

    def make(key):
        leaves = tree.paths(weight.unbox(_init_boxed(model, key)))
        return {path: leaves[path] for path in paths}

    return jax.jit(make, out_shardings={path: places[path].sharding for path in paths})(key)


def around(params: tree.Tree, optimizer: optax.GradientTransformation, plan: Plan) -> TrainState:
    """A fresh state around parameters that are already placed (from `init_from`)."""

    def make(params):
        return create(params, plan.trainable, optimizer, plan.beside)

    return jax.jit(make, out_shardings=jax.tree.map(lambda leaf: leaf.sharding, plan.abstract))(params)


def axes_of(path: str, rank: int, axes: Mapping[str, tuple[str, ...]]) -> tuple[str, ...] | None:
    """The logical axes of an array in a state: those of the parameter whose path ends its own, if it has as many."""
    whole = (names for name, names in axes.items() if f"/{path}".endswith(f"/{name}") and len(names) == rank)
    return next(whole, None)


def _with_shardings(abstract: TrainState, axes: dict, mesh: Mesh | AbstractMesh, beside: Beside) -> TrainState:
    """Optimizer leaves that mirror a parameter (`axes_of`) lie where it lies."""

    def place(path, leaf):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        names = axes_of(name, leaf.ndim, axes)
        if names is None:
            return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=NamedSharding(mesh, PartitionSpec()))
        where = meshes.sharding(names, leaf.shape, mesh)
        if beside.host_moments and leaf.ndim and name.startswith("opt_state/"):
            where = where.with_memory_kind(offload.HOST)
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where)

    return jax.tree_util.tree_map_with_path(place, abstract)
