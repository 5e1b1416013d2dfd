"""A contest: one computation done by several sides on the same random operands, forward, and with its gradients."""

import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding

from benchmarks.gpu import timing
from benchmarks.gpu.torch_side import Peer, Torch
from benchmarks.measure import with_gradients

CACHE_BYTES = 60 * 2**20
"""Of an H200's second-level cache."""
PASSES = ("forward", "forward+backward")


@dataclasses.dataclass(frozen=True)
class Operand:
    """An array that all sides are given.

    Attributes:
      shape: of it.
      dtype: of it.
      draw: (key, shape) -> values, which are then rounded to the dtype.
      gradient: whether there is one by it.
    """

    shape: tuple[int, ...]
    dtype: str = "bfloat16"
    draw: Callable = jax.random.normal
    gradient: bool = True

    def make(self, key: jax.Array) -> jax.Array:
        """Drawn values."""
        return jnp.asarray(self.draw(key, self.shape), self.dtype)


@dataclasses.dataclass(frozen=True)
class Contest:
    """See the file.

    Attributes:
      name: of it.
      operands: in the order of the functions' arguments; those with a gradient first.
      sides: by name, what makes a function of the operands, or a `Peer` of torch; it may raise ImportError.
      reference: the side to whose results the others' differences are told.
      flops: of the forward pass; 0 not to tell FLOP/s. With its gradients `backward` times as many more.
      backward: see there.
      bytes: that each pass must move at least, by pass; none not to tell bytes/s.
      passes: that are timed.
      without: why a side has no turn in a pass, by both.
      about: what is kept beside each row.
    """

    name: str
    operands: Mapping[str, Operand]
    sides: Mapping[str, Callable[[], Any]]
    reference: str = ""
    flops: float = 0
    backward: float = 2
    bytes: Mapping[str, float] = dataclasses.field(default_factory=dict)
    passes: tuple[str, ...] = PASSES
    without: Mapping[tuple[str, str], str] = dataclasses.field(default_factory=dict)
    about: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def run(self, *, seed: int, samples: int = timing.SAMPLES, sample_s: float = timing.SAMPLE_S) -> list[dict]:
        """A row for each side and pass: times, or that it is `missing`, or the `error` with which it failed."""
        sets, made = self._sets(seed), {name: _tried(make) for name, make in self.sides.items()}
        how, rows = dict(samples=samples, sample_s=sample_s), []
        for what in self.passes:
            about = dict(contest=self.name, **self.about, seed=seed, what=what)
            rows += [about | dict(side=name) | row for name, row in self._timed(what, made, sets, **how).items()]
        return rows

    def _timed(self, what: str, made: Mapping[str, tuple[Any, dict]], sets, **how) -> dict[str, dict]:
        """A row for each side: of those that were made and whose first launch succeeds, times."""
        rows, ready, found = {}, {}, {}
        for name, (function, note) in made.items():
            late = self.without.get((name, what))
            rows[name] = note or ({"missing": late} if late else {})
            if not rows[name]:
                start = time.perf_counter()
                launched, rows[name] = _tried(lambda: self._launched(function, what, sets))
                if launched is not None:
                    ready[name], found[name] = launched
                    rows[name] = dict(first_s=round(time.perf_counter() - start, 2))
        for name in found.keys() - {self.reference} if self.reference in found else ():
            rows[name]["difference"] = difference(found[name], found[self.reference])
        found.clear()
        for name, row in timing.in_turns(ready, **how).items():
            rows[name] |= row | self._rates(what, row["median_ms"])
        return rows

    def _launched(self, function: Any, what: str, sets) -> tuple[timing.Side, Any]:
        """A side that has been launched once, and its results."""
        side = self._side(function, what, sets)
        result = side.launch(0)
        side.wait(result)
        return side, result if isinstance(side, timing.Jax) else side.out(result)

    def lowered(self, where: NamedSharding) -> Iterator[tuple[str, str, Callable]]:
        """(side, pass, what lowers its program for the device) of each side that is not torch's."""
        shapes = [jax.ShapeDtypeStruct(each.shape, each.dtype, sharding=where) for each in self.operands.values()]
        for name, make in self.sides.items():
            for what in (what for what in self.passes if (name, what) not in self.without):

                def lower(make=make, what=what):
                    function = make()
                    if isinstance(function, Peer):
                        raise ImportError("torch's functions are not compiled ahead of time")
                    with jax.set_mesh(where.mesh):
                        if what == "forward":
                            return jax.jit(function).lower(*shapes)
                        out = jax.eval_shape(function, *shapes)
                        dy = jax.ShapeDtypeStruct(out.shape, out.dtype, sharding=where)
                        return jax.jit(self._both(function)).lower(*shapes, dy)

                yield name, what, lower

    def _sets(self, seed: int) -> list[tuple[jax.Array, ...]]:
        """Sets of operands, and as many of them as do not fit the cache together."""
        size = sum(math.prod(each.shape) * jnp.dtype(each.dtype).itemsize for each in self.operands.values())
        count = 1 + math.ceil(4 * CACHE_BYTES / size) if size < 4 * CACHE_BYTES else 2
        keys = jax.random.split(jax.random.key(seed), (count, len(self.operands)))
        return [tuple(each.make(key) for key, each in zip(row, self.operands.values())) for row in keys]

    def _side(self, function: Any, what: str, sets) -> timing.Side:
        if isinstance(function, Peer):
            named = [dict(zip(self.operands, arrays)) for arrays in sets]
            by = tuple(name for name, each in self.operands.items() if each.gradient)
            return Torch(function, named, by if what != "forward" else ())
        if what == "forward":
            return timing.Jax(function, sets)
        out = jax.eval_shape(function, *sets[0])
        dy = Operand(out.shape, str(out.dtype)).make(jax.random.key(len(sets)))
        return timing.Jax(self._both(function), [(*arrays, dy) for arrays in sets])

    def _both(self, function: Callable) -> Callable:
        return with_gradients(function, sum(each.gradient for each in self.operands.values()))

    def _rates(self, what: str, milliseconds: float) -> dict:
        rates = {}
        if self.flops:
            count = self.flops * (1 if what == "forward" else 1 + self.backward)
            rates["tflop_s"] = round(count / milliseconds / 1e9, 1)
        if what in self.bytes:
            rates["tb_s"] = round(self.bytes[what] / milliseconds / 1e9, 3)
        return rates


def _tried(make: Callable[[], Any]) -> tuple[Any, dict]:
    """What is made, or None and why not; other people's code may raise anything, and must not end the others' turns."""
    try:
        return make(), {}
    except ImportError as error:
        return None, {"missing": str(error)}
    except Exception as error:
        text = str(error).strip().splitlines() or [""]
        return None, {"error": f"{type(error).__name__}: {text[0]}"[:300]}


def difference(found: Any, expected: Any) -> float | str:
    """The largest of the arrays' differences, each relative to the largest entry; of as many as both have."""
    pairs = zip(jax.tree.leaves(found), jax.tree.leaves(expected))
    far = lambda a, b: jnp.max(jnp.abs(a - b)) / jnp.max(jnp.abs(b))
    wide = lambda array: array.astype(jnp.float32)
    worst = float(np.max([np.asarray(far(wide(a), wide(b))) for a, b in pairs]))
    return float(f"{worst:.3g}") if math.isfinite(worst) else str(worst)
