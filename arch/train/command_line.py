"""What a command line says, or one line on what is wrong with it."""

import contextlib
import difflib
import pathlib
import re
import runpy
import sys
from collections.abc import Iterator, Sequence
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
    given = next((arg.split("=", 1)[1] for arg in argv if arg.lstrip("-").startswith(f"{name}=")), "")
    file = pathlib.Path(given.split(":")[0])
    if given and not file.is_file():
        raise config.ConfigError(f"--{name}={given!r}: there is no file {str(file)!r}")
    try:
        return values(argv)
    except flags.Error as error:
        raise config.ConfigError(one_line(error)) from None
    except SyntaxError as error:
        raise config.ConfigError(f"{error.filename}, line {error.lineno}: {error.msg}") from None
    except (AttributeError, KeyError, IndexError, TypeError):
        # The config's library says what it missed, not where: load the file without overrides, then look.
        edge = _load(file, given.partition(":")[2])
        for argument in argv:
            if argument.lstrip("-").startswith(f"{name}."):
                check_path(edge, argument.lstrip("-").removeprefix(f"{name}.").split("=")[0])
        raise


def _load(file: pathlib.Path, arg: str) -> Any:
    """What `get_config` of a config file returns. Raises ConfigError when it defines none."""
    space = runpy.run_path(str(file))
    if "get_config" not in space:
        raise config.ConfigError(f"{file} must define get_config(arg='')")
    return space["get_config"](arg) if arg else space["get_config"]()


def check_path(edge: Any, path: str) -> None:
    """Raises ConfigError, naming the nearest key, when a ConfigDict has no leaf at `model.layers.pattern[0].norm`."""
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
                hint = f"did you mean {near[0]!r}?" if near else f"{done or 'the config'} has {', '.join(known) or 'none'}"
                raise config.ConfigError(f"{here} is no field of the config; {hint}")
            node = node[key]
        done = here


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

