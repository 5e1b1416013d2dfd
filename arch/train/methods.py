"""How a gradient becomes a direction: five optimizers before decay and learning rate, all of them optax's.

adamw      m / (sqrt(v) + epsilon), both means without bias. Kingma, Ba, 2014, arXiv 1412.6980.
adafactor  g / sqrt(v), v of a large matrix from its rows' and columns' means, no mean of g; cut to root mean square 1,
           times the weight's root mean square. Shazeer, Stern, 2018, arXiv 1804.04235, algorithm 4. A weight is
           one layer's, and one expert's, however many lie stacked in an array.
lion       sign(b1 m + (1 - b1) g). Chen et al., 2023, arXiv 2302.06675, algorithm 2.
muon       matrices: U V' of the mean of g = U S V', by five Newton-Schulz steps (Jordan et al., 2024), times
           0.2 sqrt(longer side), which is about the root mean square of Adam's steps (Liu et al., 2025,
           arXiv 2502.16982, eq. 4); all else, embeddings too: Adam. Its b1 is both Adam's and the mean's of g.
sgd        m, the sum of gradients that decays by b1 a step (Polyak's momentum).

Means may be kept in bfloat16, at half the memory, and computed with in float32. Rounded to 8 bits, a mean that decays
by b stands still where the next value is less than 2^-8 / (1 - b) of it away: 4 % at 0.9, 8 % at 0.95, and all of it at
0.999, so that no decay above MOST_DECAY is taken.
"""

import itertools
import math
from collections.abc import Callable, Mapping
from typing import Literal

import jax
import jax.numpy as jnp
import optax
from optax import contrib

from arch import tree

Kind = Literal["adamw", "adafactor", "lion", "muon", "sgd"]
Moments = Literal["float32", "bfloat16"]

MOST_DECAY = 1 - 2**-6
"""Of means in bfloat16: it stands still a quarter away from the truth at most."""

_STACKS = ("layers", "experts")
_SIDES = ("embed", "heads", "kv_heads", "head_dim", "hidden")
_RMS = 0.2


def direction(
    kind: Kind, *, b1: float, b2: float, epsilon: float, axes: Callable[[], Mapping[str, tuple[str, ...]]] | None = None
) -> optax.GradientTransformation:
    """The transformation of gradients into what the learning rate scales.

    Args:
      kind: as above.
      b1: decay of the mean (sgd: of the sum) of gradients. Adafactor has none.
      b2: decay of the mean of squares; of lion's mean, which b1 only mixes. Adafactor's and sgd's kind have none.
      epsilon: added to Adam's root.
      axes: gives the logical axes of each parameter by path; muon calls it, to know which are matrices, and
        adafactor, to know which are stacks of weights.

    Raises:
      ValueError: muon or adafactor without axes.
    """
    if kind == "adamw":
        return optax.scale_by_adam(b1, b2, epsilon)
    if kind == "lion":
        return optax.scale_by_lion(b1, b2)
    if kind == "sgd":
        return optax.trace(b1)
    if axes is None:
        raise ValueError(f"kind={kind!r} must be given the axes of each parameter")
    if kind == "adafactor":
        parts = optax.scale_by_factored_rms(), optax.clip_by_block_rms(1.0), optax.scale_by_param_block_rms()
        return _one_by_one(axes(), optax.chain(*parts))
    return _muon(axes(), optax.scale_by_adam(b1, b2, epsilon), b1)


def kept_as(dtype: str, one: optax.GradientTransformation) -> optax.GradientTransformation:
    """A transformation whose state is kept in a dtype, and computed with in float32."""

    def cast(state, to):
        return jax.tree.map(lambda leaf: leaf.astype(to) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf, state)

    def update(gradients, state, params=None):
        updates, state = one.update(gradients, cast(state, jnp.float32), params)
        return updates, cast(state, dtype)

    return optax.GradientTransformation(lambda params: cast(one.init(params), dtype), update)


def _one_by_one(axes: Mapping[str, tuple[str, ...]], one: optax.GradientTransformation):
    """A transformation of one weight, for all of them: each layer's and expert's in a stacked array is one."""

    def each(function, path):
        for _ in itertools.takewhile(_STACKS.__contains__, axes[path]):
            function = jax.vmap(function)
        return function

    def init(params):
        states = tree.map_with_path(lambda path, weight: each(one.init, path)(weight), params)
        return jax.tree.transpose(jax.tree.structure(params), None, states)

    def update(gradients, state, params):
        whole = jax.tree.structure(params)
        kind = jax.tree.structure(jax.eval_shape(one.init, jax.tree.leaves(params)[0]))
        states = jax.tree.transpose(kind, whole, state)
        updated = lambda path, *leaves: each(one.update, path)(*leaves)
        return jax.tree.transpose(whole, None, tree.map_with_path(updated, gradients, states, params))

    return optax.GradientTransformation(init, update)


def _muon(axes: Mapping[str, tuple[str, ...]], others: optax.GradientTransformation, b1: float):
    """Muon for matrices, another optimizer for what is none."""
    sides = {path: matrix_sides(names) for path, names in axes.items()}

    def by_path(function, tree):
        name = lambda path: jax.tree_util.keystr(path, simple=True, separator="/")
        return jax.tree_util.tree_map_with_path(lambda path, leaf: function(leaf, sides[name(path)]), tree)

    def scaled(update, sides):
        return _RMS * max(math.prod(update.shape[axis] for axis in side) for side in sides) ** 0.5 * update

    orthogonal = contrib.scale_by_muon(beta=b1, weight_dimension_numbers=lambda tree: by_path(lambda _, s: s, tree))
    matrices = optax.chain(_of_weights(orthogonal), optax.stateless(lambda updates, _: by_path(scaled, updates)))
    label = lambda _, sides: "others" if sides is None else "matrices"
    return optax.partition({"matrices": matrices, "others": others}, lambda tree: by_path(label, tree))


def _of_weights(muon: optax.GradientTransformation):
    """Muon without the coefficients of its polynomial in its state, which are of no weight and no means."""

    def update(updates, state, params=None):
        updates, state = muon.update(updates, state._replace(ns_coeffs=muon.init({}).ns_coeffs), params)
        return updates, state._replace(ns_coeffs=())

    return optax.GradientTransformation(lambda params: muon.init(params)._replace(ns_coeffs=()), update)


def matrix_sides(axes: tuple[str, ...]) -> contrib.MuonDimensionNumbers | None:
    """Which axes of a weight are a matrix's input and output; None for what is no map from or to the residual stream.

    Layers and experts are many matrices; heads and their channels are one side together.
    """
    inside = [i for i, name in enumerate(axes) if name not in _STACKS]
    if len(inside) < 2 or any(axes[i] not in _SIDES for i in inside):
        return None
    if axes[inside[0]] == "embed":
        return contrib.MuonDimensionNumbers((inside[0],), tuple(inside[1:]))
    if axes[inside[-1]] == "embed":
        return contrib.MuonDimensionNumbers(tuple(inside[:-1]), (inside[-1],))
    return None
