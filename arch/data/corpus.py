"""Text on disk as named documents, split into train and valid by the hash of their names.

A document's place in the order, and its split, come from the SHA-256 of its name, never from the other documents: a
file stays in its split when the corpus grows, when the byte budget changes and on another Python version.
"""

import hashlib
import os
import pathlib
import sysconfig
from typing import NamedTuple

NOT_EVERYWHERE = frozenset(
    # Stripped or packaged apart by some distribution (Debian, macOS, slim images), or made by its build.
    "test tests idlelib idle_test tkinter turtle turtledemo lib2to3 distutils ensurepip venv site-packages "
    "dist-packages __pycache__ lib-dynload macholib _distutils_system_mod sitecustomize usercustomize "
    # Came, went or turned into a folder between Python 3.11 and 3.13.
    "_android_support _bootsubprocess _colorize _ios_support _opcode_metadata _pydatetime _pylong _pyrepl aifc "
    "asynchat asyncore cgi cgitb chunk crypt imghdr imp mailcap nntplib pathlib pipes smtpd sndhdr sunau sysconfig "
    "telnetlib uu xdrlib zipfile "
    # Generated tables, not written text.
    "__phello__ encodings pydoc_data".split()
)
"""Folders and modules of the standard library that are not read, so that every machine reads (almost) the same."""


class Document(NamedTuple):
    """A text with the name that orders it: a path relative to the corpus, with '/' on every system."""

    name: str
    text: str


def read(path: str = "", *, suffixes: tuple[str, ...] = (), max_bytes: int = 0, piece_chars: int = 8192):
    """The documents of a corpus, in the order of their names' hashes.

    Args:
      path: '' for the source of Python's standard library on this machine; a text file, which is cut into pieces; or
        a folder, each of whose files is a document (hidden files and folders are left out).
      suffixes: in a folder, the endings of the files to read, e.g. ('.txt', '.md'); () for all files.
      max_bytes: stop before the first document that would exceed this many bytes; 0 for no limit.
      piece_chars: characters of each document that a single file is cut into.

    Returns:
      A list of `Document`, none of them empty.

    Raises:
      ValueError: a missing path, a file that is not UTF-8 text (named), or no text at all.
    """
    if not path:
        documents = _folder(pathlib.Path(sysconfig.get_path("stdlib")), (".py",), _is_everywhere)
    elif os.path.isfile(path):
        text = _text(pathlib.Path(path))
        names = (f"{os.path.basename(path)}#{start}" for start in range(0, len(text), piece_chars))
        pieces = (text[start : start + piece_chars] for start in range(0, len(text), piece_chars))
        documents = sorted(map(Document, names, pieces), key=lambda document: _hash(document.name))
    elif os.path.isdir(path):
        documents = _folder(pathlib.Path(path), suffixes, lambda name: True)
    else:
        raise ValueError(f"data.path={path!r} must be a text file or a folder of text files: there is no such path")
    taken = list(_within(documents, max_bytes))
    if not taken:
        budget = f" within max_bytes={max_bytes}" if max_bytes else ""
        chosen = f" with suffixes={suffixes}" if suffixes and os.path.isdir(path) else ""
        raise ValueError(f"data.path={path!r} must hold text: found no document{chosen}{budget}")
    return taken


def split(documents: list[Document], valid_fraction: float) -> dict[str, list[Document]]:
    """The documents of 'train' and of 'valid'.

    Validation takes the documents whose hash, read as a fraction of its range, lies below `valid_fraction`, and at
    least the one with the lowest hash.

    Raises:
      ValueError: one of the two splits would be empty.
    """
    ordered = sorted(documents, key=_split_hash)
    count = max(1, sum(_split_hash(document) < valid_fraction * 2**256 for document in ordered))
    if count >= len(ordered):
        raise ValueError(
            f"data.valid_fraction={valid_fraction} must leave documents for training and for validation: "
            f"{len(ordered)} document(s) cannot be split so"
        )
    chosen = {document.name for document in ordered[:count]}
    return {
        "train": [document for document in documents if document.name not in chosen],
        "valid": [document for document in documents if document.name in chosen],
    }


def _hash(name: str) -> int:
    return int.from_bytes(hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest())


def _split_hash(document: Document) -> int:
    return _hash(f"split:{document.name}")  # a second hash: the order of a budget must not decide the split


def _is_everywhere(name: str) -> bool:
    parts = name.removesuffix(".py").split("/")
    return NOT_EVERYWHERE.isdisjoint(parts) and not parts[0].startswith(("config-", "_sysconfigdata"))


def _folder(root: pathlib.Path, suffixes, wanted):
    """The folder's documents, read one by one in the order of their names' hashes."""
    names = []
    for folder, folders, files in os.walk(root):
        relative = pathlib.Path(folder).relative_to(root)
        folders[:] = [name for name in folders if not name.startswith(".") and wanted((relative / name).as_posix())]
        names += [(relative / name).as_posix() for name in files if not name.startswith(".")]
    for name in sorted((n for n in names if n.endswith(suffixes or "") and wanted(n)), key=_hash):
        if (root / name).is_file() and (text := _text(root / name)):
            yield Document(name, text)


def _text(path: pathlib.Path) -> str:
    try:
        return path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{str(path)!r} must be UTF-8 text: byte {error.start} is not; data.suffixes names the files to read"
        ) from None


def _within(documents, max_bytes: int):
    total = 0
    for document in documents:
        total += len(document.text.encode())
        if max_bytes and total > max_bytes:
            return
        yield document
