"""Finds another distribution that provides a package `arch`: that name on the package index belongs to other authors.

It goes by the names of the files in each folder of `sys.path`, and reads installed metadata only where an `arch` stands
beside it, so that `import arch` stays fast (`importlib.metadata.packages_distributions` reads all of it).
"""

import os
import sys
from collections.abc import Iterable, Iterator

OURS = "arch-jax"


def refuse_clash(path: Iterable[str] | None = None) -> None:
    """Raises when a distribution other than ours provides `arch`.

    Args:
        path: the folders that imports are looked for in; by default `sys.path`.

    Raises:
        ImportError: naming the distribution, its folder and what to do.
    """
    for folder in dict.fromkeys(sys.path if path is None else path):
        for name in _others(folder or os.curdir):
            raise ImportError(
                f"the distribution {name!r} in {os.path.abspath(folder)} provides a package 'arch' as well as {OURS} "
                f"(in {os.path.dirname(os.path.abspath(__file__))}), and only one of them can be imported: "
                f"run 'python -m pip uninstall {name}' and install {OURS} again, or give {OURS} its own environment"
            )


def _others(folder: str) -> Iterator[str]:
    """Names of the distributions installed in `folder`, not ours, that provide a top-level `arch`."""
    try:
        entries = sorted(os.listdir(folder))
    except OSError:  # an entry of sys.path may be an archive, or missing
        return
    holds_arch = "arch" in entries or "arch.py" in entries
    for entry in entries:
        if entry.endswith((".dist-info", ".egg-info")):
            name = entry.rsplit(".", 1)[0].split("-")[0].lower().replace("_", "-")
            if name == "arch" or (holds_arch and name != OURS and _provides_arch(os.path.join(folder, entry))):
                yield name


def _provides_arch(metadata: str) -> bool:
    """Whether the distribution whose metadata folder this is lists an `arch` among what it installed."""
    top_level = _read(metadata, "top_level.txt")
    if top_level:
        return b"arch" in top_level.split()
    record = b"\n" + _read(metadata, "RECORD")
    return b"\narch/__init__.py," in record or b"\narch.py," in record


def _read(folder: str, name: str) -> bytes:
    try:
        with open(os.path.join(folder, name), "rb") as file:
            return file.read()
    except OSError:  # neither file is compulsory
        return b""
