"""An optimizer's means in the host's memory: they come to the devices for the update of their weight, and go back.

One weight after the other, and of stacked layers one layer after the other, in a loop: so a device holds the means of
one layer's weight instead of all. A loop, because the compiler moves copies that are not in one to the program's start.
It takes no turn if the step is not taken.
"""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import optax
from jax import lax

from arch import tree
from arch.train.restore import flatten

HOST = "pinned_host"
"""The kind of memory of the host's that devices read and write."""


def in_host(
    one: optax.GradientTransformation, axes: Callable[[], Mapping[str, tuple[str, ...]]]
) -> optax.GradientTransformation:
    """A transformation whose arrays may be in the host's memory between updates; it must treat each layer by itself.

    Its state looks as that of `one`; where it lies is said by its sharding (`arch.train.state`).

    Args:
      one: the transformation.
      axes: gives the logical axes of each parameter by path: which are stacks of layers.
    """

    def update(gradients, state, params, *, taken=True, **_):
        kept, weights, updates = flatten(state), tree.paths(params), {}
        new = dict(kept)
        for path, gradient in tree.paths(gradients).items():
            stacked = axes()[path][:1] == ("layers",)
            names = flatten(jax.eval_shape(one.init, tree.from_paths({path: weights[path]})))
            turn = _turn(one, path, weights[path], {name: kept[name] for name in names}, stacked)
            turns = jnp.where(taken, len(gradient) if stacked else 1, 0)
            updates[path], changed = lax.fori_loop(0, turns, turn, (gradient, {name: kept[name] for name in names}))
            new |= changed
        return tree.from_paths(updates), jax.tree.unflatten(jax.tree.structure(state), [new[name] for name in kept])

    return optax.GradientTransformationExtraArgs(one.init, update)


def _turn(one: optax.GradientTransformation, path: str, weight, before: dict, stacked: bool) -> Callable:
    """The function (i, (gradients, state)) -> (updates as far as layer i, state) of one weight, in place.

    Args:
      one: the transformation.
      path: of the weight.
      weight: its value.
      before: its state by path; numbers in it are those of all layers.
      stacked: whether it is a stack of layers; else there is but one turn.
    """

    def part(array, i):
        return lax.dynamic_slice_in_dim(array, i, 1) if stacked else array

    def put(array, i, new):
        new = jax.device_put(new, jax.typeof(array).memory_space)
        return lax.dynamic_update_slice_in_dim(array, new, i, 0) if stacked else new

    def turn(i, carry):
        values, state = carry
        means = {
            name: jax.device_put(part(leaf, i), jax.memory.Space.Device) for name, leaf in state.items() if leaf.ndim
        }
        here = tree.from_paths({path: part(weight, i)})
        structure = jax.tree.structure(jax.eval_shape(one.init, here))
        given = jax.tree.unflatten(structure, [means.get(name, before[name]) for name in before])
        update, new = one.update(tree.from_paths({path: part(values, i)}), given, here)
        state = {name: put(state[name], i, leaf) if leaf.ndim else leaf for name, leaf in flatten(new).items()}
        return put(values, i, tree.paths(update)[path]), state

    return turn
