"""The two files of a tokenised split, written document by document and opened as a memory map.

    NAME.tokens.npy   the documents' tokens, one after another
    NAME.offsets.npy  where each begins, and the end
"""

import array
import pathlib
from typing import NamedTuple

import numpy as np


class Split(NamedTuple):
    """One split on disk.

    tokens: uint16[tokens] or uint32[tokens], memory-mapped, separators included.
    offsets: int64[documents + 1], where each document begins in `tokens`, and the end.
    num_bytes: bytes of text in the split.
    sources: how many of the documents, from the first on, come from each source.
    """

    tokens: np.ndarray
    offsets: np.ndarray
    num_bytes: int
    sources: tuple[int, ...]


def dtype(tokenizer) -> np.dtype:
    """The type that holds a tokenizer's ids on disk."""
    return np.dtype(np.uint16 if tokenizer.size <= 2**16 else np.uint32)


class Writer:
    """The files of one split, written document by document; only the offsets are in memory."""

    def __init__(self, folder: pathlib.Path, name: str, maker):
        self._token_bytes, self._dtype = maker.token_bytes, dtype(maker)
        self._offsets, self._num_bytes, self._sources = array.array("q", [0]), 0, []
        self._offsets_path = folder / f"{name}.offsets.npy"
        self._file = open(folder / f"{name}.tokens.npy", "wb")
        _header(self._file, self._dtype, 0)

    def append(self, tokens: np.ndarray) -> None:
        """Adds a document, its separator included."""
        self._file.write(tokens.data)
        self._offsets.append(self._offsets[-1] + len(tokens))
        self._num_bytes += int(self._token_bytes[tokens].sum(dtype=np.int64))

    def end_source(self) -> None:
        """Says that the documents since the last call came from one source."""
        self._sources.append(len(self._offsets) - 1 - sum(self._sources))

    def close(self) -> dict:
        """What meta.json says of the split."""
        with self._file as file:
            file.seek(0)
            _header(file, self._dtype, self._offsets[-1])  # as long as the first: NumPy leaves room for the count
        with open(self._offsets_path, "wb") as file:  # np.save's error on a full disk does not say so
            _header(file, np.dtype(np.int64), len(self._offsets))
            file.write(self._offsets)
        documents, tokens = len(self._offsets) - 1, self._offsets[-1]
        return {"documents": documents, "tokens": tokens, "bytes": self._num_bytes, "sources": self._sources}


def read(folder: pathlib.Path, name: str, counts: dict) -> Split:
    """The split whose files `Writer` wrote, and of which it said `counts`.

    Raises:
      ValueError: files and counts do not agree.
    """
    tokens = np.load(folder / f"{name}.tokens.npy", mmap_mode="r")
    offsets = np.load(folder / f"{name}.offsets.npy")
    if len(tokens) != counts["tokens"] or len(offsets) != counts["documents"] + 1 or offsets[-1] != len(tokens):
        raise ValueError(f"{name} has {len(tokens)} tokens and {len(offsets)} offsets, meta.json says {counts}")
    return Split(tokens, offsets, counts["bytes"], tuple(counts["sources"]))


def _header(file, dtype: np.dtype, count: int) -> None:
    described = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": (count,)}
    np.lib.format.write_array_header_1_0(file, described)
