"""The points of a sweep: what a config file's `sweep` or `get_hyper` says, read, named and checked.

A point sets leaves of the config by path, and may set the config's argument, under the name `arg`. Three spellings:

    def sweep():               returns points {leaf: value}; arch/hyper.py puts them together
    def get_hyper(hyper):      scenic's: returns hyper.product([hyper.sweep("config.seed", [0, 1]), ...])
    def sweep(add):            big_vision's: calls add("mixer=mamba", seed=1, **{"model.embed_dim": 64}) for each point

(`get_sweep` is uncertainty-baselines' name of the second.) Each may also take `arg`, which is what stands behind the
file's colon on the command line. A point's argument is put behind that one, with a comma.
"""

import dataclasses
import inspect
import re
from collections.abc import Mapping, Sequence
from typing import Any

from arch import config, hyper
from arch.train import command_line, experiment, measured

FUNCTIONS = ("sweep", "get_hyper", "get_sweep")
_NAME_LENGTH, _VALUE_LENGTH = 80, 24


@dataclasses.dataclass(frozen=True)
class Point:
    """One run of a sweep.

    Attributes:
      index: its number, from 0.
      overrides: what it sets, by path; the config's argument as `arg`.
    """

    index: int
    overrides: Mapping[str, Any]

    @property
    def folder(self) -> str:
        """`3-learning_rate=0.01,seed=1`, of these overrides alone: safe as a file's name, unique by its number."""
        leaves = list(self.overrides)
        parts = (f"{_short(leaf, leaves)}={_plain(value)[:_VALUE_LENGTH]}" for leaf, value in self.overrides.items())
        text = re.sub(r"[^\w.=,+-]+", "_", ",".join(parts) or "as-it-is", flags=re.ASCII)
        return f"{self.index}-{text}"[:_NAME_LENGTH].rstrip("._,=-")

    def __str__(self):
        return f"point {self.index} ({', '.join(f'{leaf}={value!r}' for leaf, value in self.overrides.items())})"


def read(given: str) -> tuple[Point, ...]:
    """The points that a config file defines.

    Args:
      given: `FILE` or `FILE:ARGUMENT`, as on the command line.

    Raises:
      ConfigError: the file has no sweep, or one that cannot be made out.
    """
    file, arg = command_line.split(given)
    space = command_line.namespace(given)
    names = [name for name in FUNCTIONS if callable(space.get(name))]
    if len(names) != 1:
        has = f"both {names[0]} and {names[1]}" if names else "no sweep"
        raise config.ConfigError(f"{file} defines {has}: --mode=sweep runs what one function sweep() returns")
    function, added = space[names[0]], []

    def add(*args, **leaves):
        if args and "arg" in leaves:
            raise config.ConfigError(f"point {len(added)} sets both {args} and arg={leaves['arg']!r}: drop one")
        added.append(({"arg": ",".join(args)} if args else {}) | leaves)

    offered = {"add": add, "arg": arg, "hyper": hyper}
    taken = inspect.signature(function).parameters
    if strange := [name for name in taken if name not in offered]:
        raise config.ConfigError(f"{file}: parameter {strange[0]!r} of {names[0]} must be one of {', '.join(offered)}")
    with command_line.naming_lines(file):
        returned = function(**{name: offered[name] for name in taken})
        found = added if "add" in taken else list(returned)
    points = tuple(Point(index, _overrides(point, index, file)) for index, point in enumerate(found))
    if not points:
        raise config.ConfigError(f"{file}: {names[0]} gives no points")
    for point in points:
        first = next(other for other in points if other.overrides == point.overrides)
        if first is not point:
            raise config.ConfigError(f"{file}: points {first.index} and {point.index} are the same, {first}")
    return points


def configs(given: str, overrides: Mapping[str, Any], points: Sequence[Point]) -> list[config.Config]:
    """The config of each point's run, or of what it measures (`arch.train.measured`).

    Args:
      given: as in `read`.
      overrides: the leaves that the command line sets, in all points.
      points: of the sweep.

    Raises:
      ConfigError: a path or value is wrong, or both the command line and a point set a leaf; names the point.
    """
    file, arg = command_line.split(given)
    space, cfgs = command_line.namespace(given), []
    kind = space["Config"] if measured.function(space) else experiment.Config
    for point in points:
        try:
            both = ",".join(filter(None, (arg, point.overrides.get("arg", ""))))
            leaves = {leaf: value for leaf, value in point.overrides.items() if leaf != "arg"}
            _check_apart(leaves, overrides)
            with command_line.of_point(leaves):
                tree = config.plain(command_line.load(f"{file}:{both}" if both else file))
            for path, value in (*overrides.items(), *leaves.items()):
                command_line.check_path(tree, path)
                tree = command_line.replaced(tree, path, value)
            cfgs.append(config.from_dict(kind, tree))
        except config.ConfigError as error:
            raise config.ConfigError(f"{point}: {error}") from None
    return cfgs


def varied(points: Sequence[Point]) -> list[str]:
    """The leaves that are not the same in all points; all of them where there is one point only."""
    leaves = dict.fromkeys(leaf for point in points for leaf in point.overrides)
    if len(points) == 1:
        return list(leaves)
    first = points[0].overrides
    return [leaf for leaf in leaves if any(_differ(point.overrides, first, leaf) for point in points)]


def _differ(some: Mapping, other: Mapping, leaf: str) -> bool:
    return (leaf in some) != (leaf in other) or some.get(leaf) != other.get(leaf)


def _overrides(point: Any, index: int, file: str) -> dict[str, Any]:
    if not isinstance(point, Mapping) or not all(isinstance(leaf, str) for leaf in point):
        raise config.ConfigError(f"{file}: point {index} is {point!r}, and must be a mapping of paths to values")
    overrides = {}
    for path, value in point.items():
        leaf = path.removeprefix("config.")
        if other := next((other for other in overrides if _overlap(leaf, other)), ""):
            raise config.ConfigError(f"{file}: point {index} sets both {other} and {path}: drop one")
        overrides[leaf] = _value(value)
    if not isinstance(overrides.get("arg", ""), str):
        raise config.ConfigError(f"{file}: point {index}: arg={overrides['arg']!r} must be of type str")
    return overrides


def _value(value: Any) -> Any:
    """Without NumPy's numbers and without lists, which no config has."""
    if isinstance(value, Mapping):
        return {key: _value(leaf) for key, leaf in value.items()}
    if isinstance(value, (list, tuple)):
        return tuple(map(_value, value))
    return value.item() if hasattr(value, "item") and getattr(value, "ndim", None) == 0 else value


def _check_apart(leaves: Mapping, overrides: Mapping) -> None:
    for leaf in leaves:
        for path in overrides:
            if _overlap(leaf, path):
                raise config.ConfigError(f"{leaf} is set by the sweep, --config.{path} by the command line: drop one")


def _overlap(leaf: str, other: str) -> bool:
    """Whether two paths are the same, or one a part of what stands at the other."""
    short, long = sorted((leaf, other), key=len)
    return long == short or long.startswith((f"{short}.", f"{short}["))


def _short(leaf: str, leaves: Sequence[str]) -> str:
    """The shortest end of a path that no other path has."""
    keys = leaf.split(".")
    ends = (".".join(keys[i:]) for i in range(len(keys) - 1, -1, -1))
    return next((end for end in ends if sum(f".{other}".endswith(f".{end}") for other in leaves) == 1), leaf)


def _plain(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
