"""The files of a tokenised split, written document by document and opened as a memory map.

    NAME.tokens.npy   the documents' tokens, one after another
    NAME.offsets.npy  where each begins, and the end
    NAME.COLUMN.npy   of labelled data: one number for each token, in a file for each of the columns
"""

import array
import pathlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np


class Split(NamedTuple):
    """One split on disk.

    tokens: uint16[tokens] or uint32[tokens], memory-mapped, separators included.
    offsets: int64[documents + 1], where each document begins in `tokens`, and the end.
    num_bytes: bytes of text in the split.
    sources: how many of the documents, from the first on, come from each source.
    columns: what goes with each token of labelled data, by name, memory-mapped: int32 `labels`,
      uint8 `token_types` and `parts`.
    name: what the log and errors call it, if not by the name of the split.
    """

    tokens: np.ndarray
    offsets: np.ndarray
    num_bytes: int
    sources: tuple[int, ...]
    columns: Mapping[str, np.ndarray] = {}
    name: str = ""

    def part(self, first: int, last: int, name: str = "") -> "Split":
        """The documents from the first up to the last, which is not among them; `num_bytes` is still the whole's."""
        begin, end = self.offsets[[first, last]]
        columns = {name: column[begin:end] for name, column in self.columns.items()}
        offsets = self.offsets[first : last + 1] - begin
        return Split(self.tokens[begin:end], offsets, self.num_bytes, (last - first,), columns, name)


def dtype(tokenizer) -> np.dtype:
    """The type that holds a tokenizer's ids on disk."""
    return np.dtype(np.uint16 if tokenizer.size <= 2**16 else np.uint32)


COLUMNS = {"labels": np.dtype(np.int32), "token_types": np.dtype(np.uint8), "parts": np.dtype(np.uint8)}
"""The columns that there may be, and their types."""


class Writer:
    """The files of one split, written document by document; only the offsets are in memory."""

    def __init__(self, folder: pathlib.Path, name: str, maker, columns: Sequence[str] = ()):
        self._offsets_path = folder / f"{name}.offsets.npy"
        self._offsets, self._num_bytes, self._sources = array.array("q", [0]), 0, []
        self._dtypes = {"tokens": dtype(maker)} | {column: COLUMNS[column] for column in columns}
        self._files = {column: open(folder / f"{name}.{column}.npy", "wb") for column in self._dtypes}
        for column, file in self._files.items():
            _header(file, self._dtypes[column], 0)

    def __enter__(self) -> "Writer":
        return self

    def __exit__(self, *_) -> None:
        for file in self._files.values():
            file.close()

    def append(self, num_bytes: int, **columns: np.ndarray) -> None:
        """Adds a document: the bytes of its text, its `tokens`, special ones included, and what goes with each."""
        for column, file in self._files.items():
            file.write(np.ascontiguousarray(columns[column], self._dtypes[column]).data)
        self._offsets.append(self._offsets[-1] + len(columns["tokens"]))
        self._num_bytes += num_bytes

    def end_source(self) -> None:
        """Says that the documents since the last call came from one source."""
        self._sources.append(len(self._offsets) - 1 - sum(self._sources))

    def close(self) -> dict:
        """What meta.json says of the split."""
        for column, file in self._files.items():
            file.seek(0)
            _header(file, self._dtypes[column], self._offsets[-1])  # as long as the first: NumPy leaves room
            file.close()
        with open(self._offsets_path, "wb") as file:  # np.save's error on a full disk does not say so
            _header(file, np.dtype(np.int64), len(self._offsets))
            file.write(self._offsets)
        documents, tokens = len(self._offsets) - 1, self._offsets[-1]
        counts = {"documents": documents, "tokens": tokens, "bytes": self._num_bytes, "sources": self._sources}
        return counts | {"columns": [column for column in self._dtypes if column != "tokens"]}


def read(folder: pathlib.Path, name: str, counts: dict) -> Split:
    """The split whose files `Writer` wrote, and of which it said `counts`.

    Raises:
      ValueError: files and counts do not agree, or pairs are not told apart by `parts`.
    """
    files = ["tokens", *counts["columns"]]
    if "token_types" in files and "parts" not in files:
        raise ValueError(f"{name} has pairs without 'parts', as an earlier version wrote them")
    arrays = {column: np.load(folder / f"{name}.{column}.npy", mmap_mode="r") for column in files}
    offsets = np.load(folder / f"{name}.offsets.npy")
    for column, values in arrays.items():
        if len(values) != counts["tokens"] or len(offsets) != counts["documents"] + 1 or offsets[-1] != len(values):
            held = f"{len(values)} {column} and {len(offsets)} offsets"
            raise ValueError(f"{name} has {held}, meta.json says {counts}")
    return Split(arrays.pop("tokens"), offsets, counts["bytes"], tuple(counts["sources"]), arrays)


def _header(file, dtype: np.dtype, count: int) -> None:
    described = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": (count,)}
    np.lib.format.write_array_header_1_0(file, described)
