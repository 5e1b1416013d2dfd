"""What a part has found so far, in benchmarks/results/gpu-<part>.json: an entry a piece, with the code that it ran."""

import datetime
import hashlib
import json
import os
import pathlib
import shutil
import sys
from collections.abc import Iterable

from benchmarks import measure

ROOT = pathlib.Path(__file__).parents[2]
ROOMS = ("arch", "benchmarks", "tests")
"""Folders whose files are the code of a piece."""


class Kept:
    """The file of a part, read once and written after each change.

    Attributes:
      path: of the file.
      pieces: by name: its `rows`, or `failed` and why; `seconds`, `code` (a key of `codes`), and where and when it ran.
      codes: the files that pieces ran, by the hash of what they held.
      running: `piece` and `code` of what was begun and has not ended; {} for none.
    """

    def __init__(self, part: str, folder: pathlib.Path | None = None):
        self.path = (folder or measure.RESULTS) / f"gpu-{part}.json"
        known = json.loads(self.path.read_text()) if self.path.exists() else {}
        self.pieces, self.codes, self.running = (known.get(name, {}) for name in ("pieces", "codes", "running"))

    def has(self, piece: str, since: str = "") -> bool:
        """Whether the piece is kept, of the code as it is now and not from before; one that failed is kept too."""
        found = self.pieces.get(piece)
        return found is not None and found["at"] >= since and hash_of(self.codes[found["code"]]) == found["code"]

    def begin(self, piece: str) -> None:
        """Remembers that the piece runs."""
        self.running = {"piece": piece, "code": self._code()}
        self._write()

    def end(self, found: dict) -> None:
        """Keeps what the piece that runs has found, in place of what it found before."""
        self._keep(found, self._code())

    def fail(self, why: str) -> None:
        """Keeps, for a process that has died, that the piece did not end."""
        self._keep({"failed": why}, self.running["code"])

    def _keep(self, found: dict, code: str) -> None:
        at = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        self.pieces[self.running["piece"]] = found | {"at": at, "code": code}
        self.running = {}
        self._write()

    def _code(self) -> str:
        """The hash of what this process has run so far, whose files are remembered."""
        files = loaded()
        code = hash_of(files)
        self.codes[code] = files
        return code

    def _write(self) -> None:
        used = {entry["code"] for entry in (*self.pieces.values(), self.running) if entry}
        self.codes = {code: self.codes[code] for code in sorted(used)}
        lines = lambda entries: ",\n".join(f"    {json.dumps(name)}: {json.dumps(entries[name])}" for name in entries)
        parts = (f'  "{name}": {{\n{lines(getattr(self, name))}\n  }}' for name in ("running", "pieces", "codes"))
        self.path.parent.mkdir(parents=True, exist_ok=True)
        fresh = self.path.with_suffix(".part")
        fresh.write_text("{\n" + ",\n".join(parts) + "\n}\n")
        fresh.replace(self.path)
        if os.environ.get("OUT"):
            shutil.copy(self.path, os.environ["OUT"])


def loaded() -> list[str]:
    """The files of this repository that this process has imported."""
    files = (getattr(module, "__file__", None) for module in list(sys.modules.values()))
    inside = {pathlib.Path(file).resolve() for file in files if file}
    names = (path.relative_to(ROOT) for path in inside if path.is_relative_to(ROOT))
    return sorted(str(name) for name in names if name.parts[0] in ROOMS)


def hash_of(files: Iterable[str]) -> str:
    """Of what the files hold; of one that is gone, of nothing."""
    total = hashlib.sha256()
    for name in sorted(files):
        path = ROOT / name
        total.update(f"{name}\0".encode() + (path.read_bytes() if path.exists() else b"") + b"\0")
    return total.hexdigest()[:16]
