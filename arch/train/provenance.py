"""What a run was made of, written into its folder before it starts, and what has changed since.

    WORKDIR/config.json       the whole config, every default spelled out, and the version of its format
    WORKDIR/overrides.json    what the command line changed, by path
    WORKDIR/versions.json     packages, source revision, devices, command, date: one entry a start, the newest last
"""

import datetime
import importlib.metadata
import json
import logging
import os
import pathlib
import platform
import secrets
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import jax

from arch import config

log = logging.getLogger("arch")
_PACKAGES = ("arch-jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")
_ABSENT = object()


def write(workdir, cfg: Mapping[str, Any], overrides: Mapping[str, Any], *, done: bool = False) -> None:
    """Writes the three files, each whole or not at all. To be called by process 0 at every start.

    A run that is done keeps those that it has; the log says what another config would have changed.

    Args:
      workdir: the run's folder, created if absent.
      cfg: the config as a nested dict of plain values (`config.to_dict`).
      overrides: the leaves that the command line changed, by path.
      done: no step is left to take.

    Raises:
      OSError: the folder cannot be written.
    """
    workdir = pathlib.Path(workdir)
    if done and (old := read_config(workdir)) is not None:
        if changed := diff(old, cfg):
            log.info("the run is done, and keeps the config that it had: %s is ignored", "; ".join(changed))
        return
    workdir.mkdir(parents=True, exist_ok=True)
    write_json(workdir / "config.json", {"format_version": config.FORMAT_VERSION, "config": cfg})
    write_json(workdir / "overrides.json", overrides)
    file = workdir / "versions.json"
    earlier = json.loads(file.read_text()) if file.exists() else []
    write_json(file, [*earlier, versions()])


def read_config(workdir) -> dict[str, Any] | None:
    """The config that a run in this folder was started with, or None if none was. Tuples come back as lists.

    Raises:
      ValueError: the file is no config, or of a newer format.
    """
    file = pathlib.Path(workdir) / "config.json"
    if not file.exists():
        return None
    try:
        content = json.loads(file.read_text())
        version, cfg = int(content["format_version"]), content["config"]
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{file} is no config that arch has written") from None
    if version > config.FORMAT_VERSION:
        newest = config.FORMAT_VERSION
        raise ValueError(f"format_version={version} of {file} must be at most {newest}: a newer arch wrote it")
    return cfg


def versions() -> dict[str, Any]:
    """Versions of Python and the packages, source revision, devices, command line and date (UTC) of this process."""
    devices = jax.devices()
    device = {"kind": devices[0].device_kind, "count": len(devices), "processes": jax.process_count()}
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "command": sys.argv,
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "source": source_revision(),
        "platform": platform.platform(),
        "device": device | {"cpus": os.cpu_count()},
    }


def source_revision(folder=None) -> dict[str, Any]:
    """The git commit of a checkout and whether it differs from it; empty where there is no checkout, or no git.

    Args:
      folder: where to look; the folder above `arch` unless given. A checkout that merely contains it does not count.
    """
    folder = pathlib.Path(folder or pathlib.Path(__file__).parents[2]).resolve()
    if not (folder / ".git").exists():
        return {}

    def git(*arguments):
        run = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, timeout=20, check=True)
        return run.stdout.strip()

    try:
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain", "--untracked-files=no"))}
    except (OSError, subprocess.SubprocessError):
        return {}


def diff(old: Any, new: Any, path: str = "") -> list[str]:
    """The leaves in which two configs differ, a line each: `model.embed_dim: 128 -> 256`.

    Lists and tuples count as the same, since JSON knows only lists; NaN equals NaN.

    Args:
      old: a nested dict, as `read_config` returns it.
      new: another one.
      path: prefix of the paths.
    """
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        keys = [*old, *(key for key in new if key not in old)]
        pairs = [(f"{path}.{key}" if path else str(key), old.get(key, _ABSENT), new.get(key, _ABSENT)) for key in keys]
    elif isinstance(old, (list, tuple)) and isinstance(new, (list, tuple)):
        length = max(len(old), len(new))
        before, after = ([*side, *[_ABSENT] * (length - len(side))] for side in (old, new))
        pairs = [(f"{path}[{i}]", before[i], after[i]) for i in range(length)]
    else:
        same = type(old) is type(new) and (old == new or old != old and new != new)
        return [] if same else [f"{path}: {_shown(old)} -> {_shown(new)}"]
    return [line for name, before, after in pairs for line in diff(before, after, name)]


def write_json(file: pathlib.Path, content: Any) -> None:
    """Writes JSON as `write_whole` does."""
    write_whole(file, json.dumps(content, indent=2) + "\n")


def write_whole(file: pathlib.Path, text: str) -> None:
    """Writes text under a name of its own and renames it: the file is whole at any moment, whoever else writes it."""
    temporary = file.with_name(f".{file.name}.{secrets.token_hex(4)}.tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, file)


def _shown(value) -> str:
    return "(absent)" if value is _ABSENT else repr(value)


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
