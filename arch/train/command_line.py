"""What a command line says, or one line on what is wrong with it."""

import contextlib
import contextvars
import difflib
import pathlib
import re
import runpy
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from absl import flags

from arch import config

EXIT_STATUS = 2
"""Exit status after bad input."""


def parse(values: flags.FlagValues, argv: Sequence[str], name: str = "config") -> list[str]:
    """Parses flags, of which `name` is a config file whose leaves may be overridden (`--config.mesh.data=4`).

    Returns:
      The arguments that are no flags.

    Raises:
      ConfigError: a flag, the config file or an override is wrong.
    """
    # The config's library says what it missed, not where: file and paths are checked before it sees them.
    edge = None
    if (given := value_of(argv, name)) is not None:
        edge = load(given)
        for argument in argv:
            if override := re.match(rf"--?(?:no)?{name}\.([^=]*)", argument):
                check_path(edge, override[1])
    try:
        return values(argv)
    except flags.Error as error:
        wrong = re.match(rf"flag --(no)?({name}\.[^=]*)=(.*?): ", str(error), re.DOTALL)
        if wrong is None or edge is None:
            raise config.ConfigError(one_line(error)) from None
        kind = type(leaf_at(config.plain(edge), wrong[2].removeprefix(f"{name}."))).__name__
        raise config.ConfigError(f"--{wrong[2]}={wrong[3]} must be of type {kind}") from None


def value_of(argv: Sequence[str], name: str) -> str | None:
    """The value of the last `--name=value` or `--name value`; None if the flag is not given."""
    for i, argument in reversed(list(enumerate(argv))):
        if found := re.match(rf"--?{name}(=|$)", argument):
            return argument[found.end() :] if found[1] else "".join(argv[i + 1 : i + 2])
    return None


def split(given: str) -> tuple[str, str]:
    """The file and the argument of `FILE:ARGUMENT`; '' when there is none."""
    name, _, arg = given.partition(":")
    return name, arg


def load(given: str) -> Any:
    """What `get_config` returns in the file `FILE` or `FILE:ARGUMENT`.

    Raises:
      ConfigError: there is no such file, or it does not run; the message names file and line.
    """
    name, *arg = given.split(":", 1)
    space = namespace(given)
    with naming_lines(name):
        edge = space["get_config"](*arg) if "get_config" in space else None
    if not hasattr(edge, "items"):
        raise config.ConfigError(f"{name} must define get_config(arg=''), which returns a ConfigDict")
    return edge


def namespace(given: str) -> dict[str, Any]:
    """What the file of `FILE` or `FILE:ARGUMENT` defines. Raises ConfigError as `load` does."""
    name, _ = split(given)
    if not pathlib.Path(name).is_file():
        raise config.ConfigError(f"--config={given}: there is no file {name!r}")
    with naming_lines(name):
        return runpy.run_path(name)


@contextlib.contextmanager
def naming_lines(file: str) -> Iterator[None]:
    """Turns whatever a user's file raises into a ConfigError that names file and line."""
    try:
        yield
    except config.ConfigError as error:
        raise config.ConfigError(f"{file}: {error}") from None
    except SyntaxError as error:
        raise config.ConfigError(f"{error.filename}, line {error.lineno}: {error.msg}") from None
    except Exception as error:
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
        where = f"{file}, line {lines[-1]}" if lines else file
        raise config.ConfigError(f"{where}: {type(error).__name__}: {error}") from None


def check_path(edge: Any, path: str) -> None:
    """Raises ConfigError, naming the nearest key, when a ConfigDict has no leaf at `model.layers.pattern[0].norm`."""
    if not re.fullmatch(r"\w+(\[\d+\]|\.\w+)*", path):
        raise config.ConfigError(f"{path!r} is no path to a field, such as model.layers.pattern[0].norm.kind")
    node, done = edge, ""
    for key in re.findall(r"[^.\[\]]+|\[\d+\]", path):
        here = f"{done}{key}" if key.startswith("[") or not done else f"{done}.{key}"
        if key.startswith("["):
            index = int(key[1:-1])
            if not isinstance(node, tuple):
                raise config.ConfigError(f"{here} does not exist: {done} is no tuple")
            if index >= len(node):
                raise config.ConfigError(f"{here} does not exist: {done} has {len(node)} entries")
            node = node[index]
        else:
            known = list(node.keys()) if hasattr(node, "keys") else []
            if key not in known:
                near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
                has = f"{done or 'the config'} has {', '.join(known) or 'none'}"
                hint = f"did you mean {near[0]!r}?" if near else has
                raise config.ConfigError(f"{here} is no field of the config; {hint}")
            node = node[key]
        done = here


def replaced(tree: Any, path: str, value: Any) -> Any:
    """A copy of nested dicts and tuples with another value at a path that `check_path` has found."""

    def walk(node, keys):
        if not keys:
            return value
        if isinstance(node, tuple):
            return tuple(walk(entry, keys[1:]) if i == int(keys[0]) else entry for i, entry in enumerate(node))
        return {**node, keys[0]: walk(node[keys[0]], keys[1:])}

    return walk(tree, re.findall(r"\w+", path))


def leaf_at(tree: Any, path: str) -> Any:
    """What nested dicts and tuples hold at a path. Raises LookupError or TypeError where they have no such path."""
    for key in re.findall(r"\w+", path):
        tree = tree[int(key) if isinstance(tree, tuple) else key]
    return tree


_POINT: contextvars.ContextVar[Mapping[str, Any]] = contextvars.ContextVar("point", default=MappingProxyType({}))


@contextlib.contextmanager
def of_point(overrides: Mapping[str, Any]) -> Iterator[None]:
    """Inside, `override` also sees what a sweep's point gives its leaves."""
    token = _POINT.set(overrides)
    try:
        yield
    finally:
        _POINT.reset(token)


def override(leaf: str, name: str = "config") -> str:
    """What a sweep's point, or this process's command line, gives a leaf (`--config.leaf=VALUE`, the last counts).

    For a config file some of whose leaves follow from another, such as the model from `init_from`: overrides are
    applied only when the file has said which leaves there are. '' if nothing is given.
    """
    point = _POINT.get()
    return str(point[leaf]) if leaf in point else value_of(sys.argv, rf"{name}\.{leaf}") or ""


def is_utf8(texts: Sequence[str]) -> bool:
    """Whether all arguments of a command line came as UTF-8 (Python holds other bytes as lone surrogates)."""
    try:
        "".join(texts).encode()
    except UnicodeEncodeError:
        return False
    return True


@contextlib.contextmanager
def one_line_errors(*kinds: type[Exception]) -> Iterator[None]:
    """Ends the process with one line on standard error, and no traceback, at an error of these kinds."""
    try:
        yield
    except kinds as error:
        print(f"error: {one_line(error)}", file=sys.stderr, flush=True)
        raise SystemExit(EXIT_STATUS) from None


def one_line(error: Exception) -> str:
    """An error's message on one line; an OSError's with its file first."""
    if isinstance(error, OSError) and error.filename and error.strerror:
        return f"{error.filename}: {error.strerror}"
    return " ".join(str(error).split())
