"""The grouped matrix product, against each group's alone, in float64 on the host."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from arch.kernels.grouped_matmul import hopper


@dataclasses.dataclass(frozen=True)
class Case:
    """x [m d] by weights [e d f].

    Attributes:
      sizes: rows of each group.
      spare: rows behind the groups, which are NaN.
      d: channels of a row.
      f: of a product.
      dtype: of all.
      seed: of the arrays.
    """

    sizes: tuple[int, ...]
    spare: int = 0
    d: int = 512
    f: int = 768
    dtype: str = "bfloat16"
    seed: int = 7

    def __str__(self):
        different = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return " ".join(f"{name}={value}" for name, value in different.items() if value != getattr(Case, name, None))

    def arrays(self) -> list[np.ndarray]:
        """x, weight and dy."""
        draw, m = np.random.default_rng(self.seed).normal, sum(self.sizes) + self.spare
        of_none = np.arange(m)[:, None] >= sum(self.sizes)
        x, dy = (np.where(of_none, np.nan, draw(size=(m, n))) for n in (self.d, self.f))
        return [
            np.asarray(array, jnp.dtype(self.dtype)) for array in (x, draw(size=(len(self.sizes), self.d, self.f)), dy)
        ]


CASES = [
    Case((333, 0, 71, 500, 96)),
    Case((333, 0, 71, 500, 95), spare=131, dtype="float16"),
    Case((1, 2, 3, 250), d=64, f=64),
    Case((0, 0, 1000), d=192, f=128),
    Case((0, 0, 0), spare=149),
    Case((129,) * 16, d=1024, f=1408),
]


def found(case: Case, *, launch: hopper.Launch = hopper.Launch()) -> dict:
    """By the Hopper kernels."""
    x, weight, dy = map(jnp.asarray, case.arrays())

    def both(x, weight, dy):
        sizes = jnp.array(case.sizes, jnp.int32)
        y, pull = jax.vjp(partial(hopper.grouped_matmul, group_sizes=sizes, launch=launch), x, weight)
        return dict(zip(("y", "d_x", "d_weight"), (y, *pull(dy))))

    return jax.jit(both)(x, weight, dy)


def exact(case: Case) -> dict:
    """A group at a time."""
    x, weight, dy = (array.astype(np.float64) for array in case.arrays())
    y, dx, d_weight, start = np.zeros_like(dy), np.zeros_like(x), np.zeros_like(weight), 0
    for e, size in enumerate(case.sizes):
        rows = slice(start, start := start + size)
        y[rows], dx[rows], d_weight[e] = x[rows] @ weight[e], dy[rows] @ weight[e].T, x[rows].T @ dy[rows]
    return {"y": y, "d_x": dx, "d_weight": d_weight}


def unit(case: Case) -> float:
    """Summed in float32, rounded once."""
    return float(jnp.finfo(case.dtype).eps)
