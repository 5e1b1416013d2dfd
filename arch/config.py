"""Frozen configs that check themselves, and the one crossing from an `ml_collections.ConfigDict` to them.

A config class is a frozen keyword-only dataclass; its annotations are its rules:

    @config.frozen
    class Config(config.Config):
        num_heads: config.PositiveInt
        soft_cap: config.NonNegativeFloat = 0.0
        position: config.choice("positions")

        def check(self):
            if ...: raise ValueError("num_heads=6 must be a multiple of num_kv_heads=4")

The file name is the registry: `name="rope"` in a field declared `config.choice("positions")` means the `Config` that
`arch/positions/rope.py` defines. No leaf is `None` or a list, since neither can be overridden from the command line:
0, '' and () mean "off".
"""

import collections.abc
import dataclasses
import difflib
import functools
import importlib
import math
import pathlib
import types
import typing
from typing import Annotated, Any, Literal

FLOAT32_MAX = (2 - 2**-23) * 2.0**127
FORMAT_VERSION = 1
"""Version of the config tree's format, written into every workdir and checkpoint."""


class ConfigError(ValueError):
    """A config that breaks a rule; the message names the path, the value and the rule."""


@dataclasses.dataclass(frozen=True)
class Range:
    """Annotation of a finite number that must lie in [low, high], or above low when `open` is set."""

    low: int | float
    high: int | float = float("inf")
    open: bool = False

    def __contains__(self, value):
        return (self.low < value if self.open else self.low <= value) and value <= self.high

    def __str__(self):
        upper = "" if self.high == float("inf") else f" and at most {_number(self.high)}"
        return f"{'above' if self.open else 'at least'} {_number(self.low)}{upper}"


def _number(value: int | float) -> str:
    return str(value) if isinstance(value, int) else f"{value:g}"


@dataclasses.dataclass(frozen=True)
class Choice:
    """Annotation of a config that is named: any file of these folders of `arch` may define it."""

    folders: tuple[str, ...]

    def names(self) -> list[str]:
        """The names that may be chosen: the stems of the folders' files."""
        root = pathlib.Path(__file__).parent
        files = (file for folder in self.folders for file in (root / folder).glob("*.py"))
        return sorted(file.stem for file in files if not file.stem.startswith("_"))

    def find(self, name: object) -> type["Config"]:
        """The `Config` class of the file called `name`. Raises ConfigError, naming the nearest, if there is none."""
        root = pathlib.Path(__file__).parent
        if isinstance(name, str) and name.isidentifier():
            for folder in self.folders:
                if (root / folder / f"{name}.py").is_file():
                    found = getattr(importlib.import_module(f"arch.{folder}.{name}"), "Config", None)
                    if found is not None:
                        return found
        raise ConfigError(f"name={name!r} is no file of {self}{_nearest(name, self.names())}")

    def __str__(self):
        return " or ".join(f"arch/{folder}" for folder in self.folders)


def choice(*folders: str) -> Any:
    """The annotation of a field that holds any config defined in these folders of `arch`, chosen by `name`."""
    return Annotated[Config, Choice(folders)]


PositiveInt = Annotated[int, Range(1, 2**31 - 1)]
"""A size: indices into an axis are 32 bits wide."""
SizeOrZero = Annotated[int, Range(0, 2**31 - 1)]
"""A size or an index, where 0 is none or the first."""
NonNegativeInt = Annotated[int, Range(0)]
PositiveFloat = Annotated[float, Range(0, open=True)]
NonNegativeFloat = Annotated[float, Range(0)]
Fraction = Annotated[float, Range(0, 1)]
Percent = Annotated[float, Range(0, 100)]


@typing.dataclass_transform(frozen_default=True, kw_only_default=True)
def frozen(cls):
    """Class decorator: a frozen, keyword-only dataclass, as every Config is."""
    return dataclasses.dataclass(frozen=True, kw_only=True)(cls)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Base of all configs: fields are checked against their annotations, then by `check`, at construction."""

    def __post_init__(self):
        for field, hint in _hints(type(self)).items():
            object.__setattr__(self, field, _checked(getattr(self, field), hint, field))
        self.check()

    def check(self) -> None:
        """Rules between fields: override, and raise ValueError with the field, the value and the rule."""

    def replace(self, **changes) -> "Config":
        """A copy with these fields changed, checked anew."""
        return dataclasses.replace(self, **changes)


@functools.cache
def _hints(cls) -> dict[str, Any]:
    names = {field.name for field in dataclasses.fields(cls)}
    return {name: hint for name, hint in typing.get_type_hints(cls, include_extras=True).items() if name in names}


def _nearest(name, names) -> str:
    close = difflib.get_close_matches(str(name), names, n=1, cutoff=0.5)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; there are {', '.join(names)}" if names else ""


def _is_config(hint) -> bool:
    return isinstance(hint, type) and issubclass(hint, Config)


def _split(hint) -> tuple[Any, tuple]:
    if typing.get_origin(hint) is Annotated:
        return typing.get_args(hint)[0], hint.__metadata__
    return hint, ()


def _checked(value, hint, name: str):
    """`value` as `hint` wants it (an int for a float becomes one). Raises ConfigError naming field, value and rule."""
    hint, rules = _split(hint)
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        if value not in args or type(value) is not type(args[0]):
            raise _wrong(name, value, "one of " + ", ".join(map(repr, args)))
    elif origin is tuple:
        if not isinstance(value, tuple):
            raise _wrong(name, value, "a tuple")
        if args[-1] is not Ellipsis and len(args) != len(value):
            raise _wrong(name, value, f"a tuple of {len(args)}")
        items = [args[0]] * len(value) if args[-1] is Ellipsis else args
        value = tuple(_checked(item, h, f"{name}[{i}]") for i, (item, h) in enumerate(zip(value, items, strict=True)))
    elif hint is float and isinstance(value, int) and not isinstance(value, bool):
        try:
            value = float(value)
        except OverflowError:
            raise _wrong(name, value, "finite") from None
    elif not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        kind = f"{hint.__module__}.{hint.__qualname__}" if _is_config(hint) else hint.__name__
        raise _wrong(name, value, f"of type {kind}")
    for rule in rules:
        if isinstance(rule, Range) and value not in rule:
            raise _wrong(name, value, str(rule))
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise _wrong(name, value, "an integer of 64 bits")
    if isinstance(value, float) and not math.isfinite(value):
        raise _wrong(name, value, "finite")
    if isinstance(value, float) and abs(value) > FLOAT32_MAX:
        raise _wrong(name, value, f"at most {FLOAT32_MAX:.6g} in size, what a float32 holds")
    return value


def _wrong(name: str, value: Any, rule: str) -> ConfigError:
    return ConfigError(f"{name}={value!r} must be {rule}")


def from_dict(cls: type[Config], tree: Any, path: str = "") -> Config:
    """The frozen config that a nested mapping (a dict or a ConfigDict) describes.

    Args:
      cls: the config class at the root.
      tree: field names to leaves, mappings, or sequences of mappings; a field declared with `choice` has a `name`.
      path: prefix of the paths in error messages.

    Raises:
      ConfigError: unknown key, missing key or bad value, with the whole path and the nearest name.
    """
    hints = _hints(cls)
    where = f"{cls.__module__}.{cls.__qualname__}"
    if not isinstance(tree, collections.abc.Mapping) and not hasattr(tree, "items"):
        raise ConfigError(f"{path}={tree!r} must be a mapping with the fields of {where}")
    values = {}
    for key, value in tree.items():
        if key not in hints:
            raise ConfigError(f"{_join(path, key)} is no field of {where}{_nearest(key, list(hints))}")
        values[key] = _crossed(value, hints[key], _join(path, key))
    for field in dataclasses.fields(cls):
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if required and field.name not in values:
            raise ConfigError(f"{_join(path, field.name)} is missing: {where} has no default for it")
    try:
        return cls(**values)
    except ValueError as error:
        raise ConfigError(f"{path}: {error}" if path else str(error)) from None


def _join(path, key):
    return f"{path}.{key}" if path else key


def _crossed(value, hint, path):
    hint, rules = _split(hint)
    args = typing.get_args(hint)
    if _is_config(hint):
        if isinstance(value, Config):
            return value
        chosen = next((rule for rule in rules if isinstance(rule, Choice)), None)
        if chosen is None:
            return from_dict(hint, value, path)
        if not hasattr(value, "items") or "name" not in value:
            raise ConfigError(f"{path}={value!r} must be a mapping with a 'name' that is a file of {chosen}")
        try:
            found = chosen.find(value["name"])
        except ConfigError as error:
            raise ConfigError(f"{path}.{error}") from None
        return from_dict(found, {key: leaf for key, leaf in value.items() if key != "name"}, path)
    if typing.get_origin(hint) is tuple:
        if not isinstance(value, (tuple, list)):
            raise ConfigError(f"{path}={value!r} must be a tuple")
        items = [args[0]] * len(value) if args[-1] is Ellipsis else args
        if len(items) != len(value):
            raise ConfigError(f"{path}={value!r} must be a tuple of {len(items)}")
        return tuple(_crossed(item, h, f"{path}[{i}]") for i, (item, h) in enumerate(zip(value, items)))
    try:
        return _checked(value, Annotated[(hint, *rules)] if rules else hint, path)
    except ConfigError as error:
        raise ConfigError(str(error)) from None


def to_dict(cfg: Config) -> dict[str, Any]:
    """The nested plain dict of a config, every default spelled out: the inverse of `from_dict`."""

    def plain(value, named):
        if isinstance(value, Config):
            name = {"name": type(value).__module__.rsplit(".", 1)[-1]} if named else {}
            hints = _hints(type(value))
            return name | {key: plain(getattr(value, key), _is_named(hint)) for key, hint in hints.items()}
        return tuple(plain(item, named) for item in value) if isinstance(value, tuple) else value

    return plain(cfg, False)


def _is_named(hint) -> bool:
    hint, rules = _split(hint)
    return any(isinstance(rule, Choice) for rule in rules) or (
        typing.get_origin(hint) is tuple and any(_is_named(item) for item in typing.get_args(hint))
    )


def config_dict(cls: type[Config], tree: Any):
    """The `ml_collections.ConfigDict` of a config with every leaf present, so that every leaf can be overridden.

    Args:
      cls: the config class at the root.
      tree: what differs from the defaults, as nested dicts. Checked here, before any flag is applied.
    """
    from ml_collections import ConfigDict

    def edge(value):
        if isinstance(value, dict):
            return ConfigDict({key: edge(leaf) for key, leaf in value.items()}, convert_dict=False)
        return tuple(map(edge, value)) if isinstance(value, tuple) else value

    return edge(to_dict(from_dict(cls, tree)))


def plain(edge: Any) -> Any:
    """A `ConfigDict` as nested dicts and tuples."""
    if hasattr(edge, "items"):
        return {key: plain(leaf) for key, leaf in edge.items()}
    return tuple(map(plain, edge)) if isinstance(edge, tuple) else edge


def parse_arg(arg: str, **defaults) -> types.SimpleNamespace:
    """The options in a config's argument: `config.py:tiny,mixer=mamba` gives `arg='tiny,mixer=mamba'`.

    A bare word is the value of the first option, or switches on the boolean option that it names.

    Args:
      arg: the text behind the colon, '' when there is none.
      **defaults: the options with their default values, whose types are kept.

    Raises:
      ConfigError: an option that does not exist or is given twice, or a value that is not of the default's type.
    """
    given = {}
    for item in filter(None, (part.strip() for part in (arg or "").split(","))):
        key, equals, text = item.partition("=")
        if not equals:
            key, text = (key, "true") if isinstance(defaults.get(key), bool) else (next(iter(defaults), key), key)
        if key not in defaults:
            raise ConfigError(f"option {key!r} in config argument {arg!r} is unknown{_nearest(key, list(defaults))}")
        if key in given:
            raise ConfigError(f"option {key!r} in config argument {arg!r} is given twice")
        given[key] = _parsed(text, defaults[key], key)
    return types.SimpleNamespace(**defaults | given)


def _parsed(text, default, key):
    kind = type(default)
    try:
        return {"true": True, "false": False}[text.lower()] if kind is bool else kind(text)
    except (ValueError, KeyError):
        raise ConfigError(f"option {key}={text!r} must be of type {kind.__name__}") from None
