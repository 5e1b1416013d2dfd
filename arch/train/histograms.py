"""Distributions of parameters and of what a step adds to them, counted on the device between fixed edges.

    bins: (-inf, -10^3], ..., (-10^-12, 0], (0, 10^-12], ..., (10^3, inf),    STEPS_PER_DECADE for a factor of ten

Only counts and four numbers of each parameter go to the host. The state is donated to the step, so that a copy of the
parameters is held while a step runs whose updates are looked at.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from arch import tree
from arch.typing import Array

STEPS_PER_DECADE = 4
_POSITIVE = 10.0 ** (np.arange(-12 * STEPS_PER_DECADE, 3 * STEPS_PER_DECADE + 1) / STEPS_PER_DECADE)
EDGES = np.concatenate([-_POSITIVE[::-1], [0.0], _POSITIVE])
"""Upper limits of all bins but the last."""


class Histogram(NamedTuple):
    """Of an array's values. A value that is no number is in the last bin.

    counts: [len(EDGES) + 1].
    smallest, largest, total, squares: the least and greatest value, their sum and the sum of their squares.
    """

    counts: Array | np.ndarray
    smallest: Array | np.ndarray
    largest: Array | np.ndarray
    total: Array | np.ndarray
    squares: Array | np.ndarray


def histogram(values: Array) -> Histogram:
    """Of an array of any shape, which may be sharded."""
    values = values.astype(jnp.float32)
    bins = jnp.searchsorted(jnp.asarray(EDGES, jnp.float32), values.ravel(), side="left")
    counts = jnp.zeros(len(EDGES) + 1, jnp.int32).at[bins].add(1)
    return Histogram(counts, jnp.min(values), jnp.max(values), jnp.sum(values), jnp.sum(jnp.square(values)))


@partial(jax.jit, static_argnames="name")
def of_tree(values: tree.Tree, *, name: str) -> dict[str, Histogram]:
    """One a parameter, by its path in canonical form under `name`."""
    return {f"{name}/{path}": histogram(leaf) for path, leaf in tree.paths(tree.unstack(values)).items()}


@jax.jit
def _copy(params):
    return jax.tree.map(jnp.copy, params)


@jax.jit
def _difference(new, old):
    return jax.tree.map(jnp.subtract, new, old)


class Histograms:
    """Those of a run, at every so many steps (0: never)."""

    def __init__(self, every_steps: int):
        self._every, self._before = every_steps, {}

    def due(self, step: int) -> bool:
        """Whether this step is one to look at."""
        return bool(self._every and step % self._every == 0)

    def before(self, params: tree.Tree) -> None:
        """Keeps a copy of the parameters that such a step will change; waits until it is made."""
        self._before = jax.block_until_ready(_copy(params))

    def after(self, params: tree.Tree) -> dict[str, Histogram]:
        """Of the changed parameters, `parameters/<path>`, and of the change, `updates/<path>`."""
        updates, self._before = _difference(params, self._before), {}
        return jax.device_get(of_tree(params, name="parameters") | of_tree(updates, name="updates"))
