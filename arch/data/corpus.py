"""A corpus as named documents, read one by one, split into train and valid by the hash of their names.

A document's place in the order, and its split, come from the SHA-256 of its name, never from the other documents: a
file stays in its split when the corpus grows, when the byte budget changes and on another Python version.
"""

import functools
import hashlib
import logging
import os
import pathlib
import sysconfig
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Literal, NamedTuple

import numpy as np

from arch import config
from arch.data import hub, labelled, records, standard_library

log = logging.getLogger("arch")


class Document(NamedTuple):
    """A text with the name that orders it: a path relative to the corpus, with '/' on every system (and #NUMBER)."""

    name: str
    text: str


@config.frozen
class Config(config.Config):
    """Which text, and how it is cut into documents."""

    path: str = ""
    """'' for the source of Python's standard library on this machine, or the labelled documents that `standard_library`
    makes of it; a file of text, which is cut into pieces, or of records (.jsonl, .jsonl.gz, .parquet, .arrow,
    .array_record), each a document; a folder of either, in which a file of text is a document; a folder saved by the
    `datasets` library; or hf://OWNER/NAME."""
    format: Literal["", "text", "jsonl", "parquet", "arrow", "array_record", "hub"] = ""
    """How the path is read; '' goes by its form: the file's ending, or what the folder holds."""
    field: str = "text"
    """The field of a record that holds the text, the words or the messages; '' for an ArrayRecord of bare texts."""
    label_field: str = "label"
    """The field of a record that holds its class, or the tags of its words."""
    pair_field: str = ""
    """The field of a record that holds the second of two texts to classify; '' for one text."""
    suffixes: tuple[str, ...] = ()
    """Endings of the files to read in a folder; () for all (of its record files, if it has some)."""
    max_bytes: config.NonNegativeInt = 0
    """Byte budget: reading stops before the first document that would exceed it; 0 for no limit."""
    piece_chars: Annotated[int, config.Range(1)] = 8192
    """Characters of the documents that a single file of text is cut into."""


def read(cfg: Config, kind: labelled.Kind = "text") -> Iterator[Document | labelled.Labelled]:
    """The documents of a corpus one by one, none of them empty.

    Texts come in the order of their names' hashes; records in their own order, file after file in the order of the
    files' names' hashes. Only the document at hand is in memory (of records, a few hundred). How many labelled records
    are left out, since they hold no text, the log says.

    Args:
      cfg: which corpus.
      kind: 'text', or of what records are read as labelled documents.

    Raises:
      ValueError: a missing path, a file that is damaged or not UTF-8 text (named), labels that are none, or no text.
    """
    total, taken, empty = 0, 0, 0
    for document in _documents(cfg, kind):
        if not document.text:
            empty += 1
            continue
        total += len(document.text.encode())
        if cfg.max_bytes and total > cfg.max_bytes:
            break
        taken += 1
        yield document
    if empty and kind != "text":
        _tell_empty(cfg.path, empty, taken + empty)
    if not taken:
        budget = f" within max_bytes={cfg.max_bytes}" if cfg.max_bytes else ""
        chosen = f" with suffixes={cfg.suffixes}" if cfg.suffixes and os.path.isdir(cfg.path) else ""
        raise ValueError(f"data.path={cfg.path!r} must hold text: found no document{chosen}{budget}")


@functools.cache  # once, however often a corpus is read
def _tell_empty(path: str, empty: int, count: int) -> None:
    log.info("%s: %d of %d records hold no text and are left out", path, empty, count)


def form(cfg: Config) -> str:
    """The format that the config names or, if it leaves that open, that the path has.

    Raises:
      ValueError: a folder with record files of several formats.
    """
    if cfg.format or not cfg.path or cfg.path.startswith(hub.PREFIX):
        return cfg.format or ("hub" if cfg.path else "text")
    if not os.path.isdir(cfg.path):
        return records.form(cfg.path) or "text"
    if records.is_saved(cfg.path):
        return "arrow"
    forms = {records.form(name) for name in _names(pathlib.Path(cfg.path), cfg.suffixes)} - {""}
    if len(forms) > 1:
        raise ValueError(f"data.format='' must name one of {', '.join(sorted(forms))}: {cfg.path!r} has files of each")
    return forms.pop() if forms else "text"


class Splitter:
    """Which documents are for validation: a function of their names.

    It takes the documents whose hash, read as a fraction of its range, lies below `valid_fraction`, and at least the
    one with the lowest hash.

    Args:
      documents: all of them; only their hashes are kept, one at a time.
      valid_fraction: above 0.

    Attributes:
      num_bytes: of all documents.

    Raises:
      ValueError: one of the two splits would be empty.
    """

    def __init__(self, documents: Iterable[Document | labelled.Labelled], valid_fraction: float):
        limit, lowest, total, valid, self.num_bytes = int(valid_fraction * 2**256), 2**256, 0, 0, 0
        for document in documents:
            value = _split_hash(document.name)
            lowest, total, valid = min(lowest, value), total + 1, valid + (value < limit)
            self.num_bytes += len(document.text.encode())
        if max(valid, 1) >= total:
            raise ValueError(
                f"data.valid_fraction={valid_fraction} must leave documents for training and for validation: "
                f"{total} document(s) cannot be split so"
            )
        self._limit = max(limit, lowest + 1)

    def __call__(self, name: str) -> str:
        """'train' or 'valid'."""
        return "valid" if _split_hash(name) < self._limit else "train"


def fraction(name: str, purpose: str) -> float:
    """A number in [0, 1) for a document: to choose a share of documents by."""
    return _hash(f"{purpose}:{name}") / 2**256


def _hash(name: str) -> int:
    return int.from_bytes(hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest())


def _split_hash(name: str) -> int:
    return _hash(f"split:{name}")  # a second hash: the order of a budget must not decide the split


def _documents(cfg: Config, kind: labelled.Kind) -> Iterator[Document | labelled.Labelled]:
    chosen = form(cfg)
    if not cfg.path:
        root = pathlib.Path(sysconfig.get_path("stdlib"))
        texts = _texts(root, _names(root, (".py",), standard_library.is_everywhere))
        return texts if kind == "text" else standard_library.labelled_documents(kind, texts)
    if chosen == "text":
        return _of_text(cfg, kind)
    fields = labelled.fields(kind, cfg)
    found = _records(cfg, chosen, fields, lists=kind == "tags")
    if kind != "text":
        return (labelled.document(kind, name, dict(zip(fields, values))) for name, values in found)
    return (Document(name, _text(values[0], name, cfg.field)) for name, values in found)


def _of_text(cfg: Config, kind: labelled.Kind) -> Iterator[Document]:
    """The documents of a file or folder of text."""
    root = _existing(cfg)
    if kind != "text":
        raise ValueError(f"data.path={cfg.path!r} must hold records, and not text, for data.kind={kind!r}")
    return _texts(root, _names(root, cfg.suffixes)) if root.is_dir() else _pieces(root, cfg.piece_chars)


def _records(cfg: Config, chosen: str, fields: Mapping[str, str], *, lists: bool) -> Iterator[tuple[str, tuple]]:
    """The names of a corpus's records, and the values of these fields."""
    if chosen == "hub":
        yield from ((f"#{i}", values) for i, values in enumerate(hub.read(cfg.path, fields)))
        return
    root = _existing(cfg)
    if root.is_file():
        root, names = root.parent, [root.name]
    elif chosen == "arrow" and records.is_saved(root):
        names = records.saved_files(root)
    else:
        names = _names(root, cfg.suffixes)
        names = names if cfg.suffixes else [name for name in names if records.form(name) == chosen]
    for name in names:
        for number, values in enumerate(records.read(root / name, chosen, fields, lists=lists)):
            yield f"{name}#{number}", values


def _existing(cfg: Config) -> pathlib.Path:
    root = pathlib.Path(cfg.path)
    if not root.exists():
        raise ValueError(
            f"data.path={cfg.path!r} must be a text file or a folder of text files, or such of records: there is no "
            "such path"
        )
    return root


def _text(value, name: str, field: str) -> str:
    if not isinstance(value, str):
        file, _, number = name.rpartition("#")
        raise ValueError(f"{file!r}: data.field={field!r} must be text: record {number} has {value!r}")
    return value


def _names(root: pathlib.Path, suffixes: tuple[str, ...], wanted=lambda name: True) -> list[str]:
    """The folder's files that are not hidden, in the order of their names' hashes."""
    names = []
    for folder, folders, files in os.walk(root):
        relative = pathlib.Path(folder).relative_to(root)
        folders[:] = [name for name in folders if not name.startswith(".") and wanted((relative / name).as_posix())]
        names += [(relative / name).as_posix() for name in files if not name.startswith(".")]
    return sorted((name for name in names if name.endswith(suffixes or "") and wanted(name)), key=_hash)


def _texts(root: pathlib.Path, names: list[str]) -> Iterator[Document]:
    for name in names:
        if (root / name).is_file():
            yield Document(name, _decoded((root / name).read_bytes(), root / name))


def _pieces(path: pathlib.Path, piece_chars: int) -> Iterator[Document]:
    """A file's text in pieces of as many characters, in the order of their names' hashes, read one by one."""
    size = path.stat().st_size
    if not size:
        return
    raw, starts, count = np.memmap(path, np.uint8, "r"), [], 0
    for begin in range(0, size, 2**20):
        chars = begin + np.flatnonzero(raw[begin : begin + 2**20] & 0xC0 != 0x80)  # the first bytes of characters
        starts += chars[-count % piece_chars :: piece_chars].tolist()
        count += len(chars)
    bounds = [0, *starts[1:], size]
    names = [f"{path.name}#{i * piece_chars}" for i in range(len(bounds) - 1)]

    def piece(i):
        return _decoded(raw[bounds[i] : bounds[i + 1]].tobytes(), path, bounds[i])

    for i in sorted(range(len(names)), key=lambda i: _hash(names[i])):
        try:
            text = piece(i)
        except ValueError:
            for earlier in range(i):
                piece(earlier)  # raises if the file's first wrong byte lies there
            raise
        yield Document(names[i], text)


def _decoded(raw: bytes, path: pathlib.Path, begin: int = 0) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{str(path)!r} must be UTF-8 text: byte {begin + error.start} is not; "
            "data.suffixes names the files to read"
        ) from None
