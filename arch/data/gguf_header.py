"""The header of a GGUF file: metadata and where each tensor lies, read so that no file can mislead the reader.

    magic "GGUF"  u32 version  u64 tensors  u64 entries
    entries x (string key, u32 type, value)
    tensors x (string name, u32 dimensions, u64 sizes[dimensions], u32 type, u64 offset)
    padding to the alignment, then the data that the offsets count from

Numbers are little-endian, a string is u64 length + UTF-8, an array u32 type + u64 length + items, a tensor's first size
is that of its innermost axis. Every count is held against the bytes that are left before anything is made of it: time
and memory are linear in the header, whatever it claims. (`gguf.GGUFReader` trusts the counts.)

Source: ggml's GGUF specification, versions 2 and 3.
"""

import dataclasses
import mmap
import os
import struct
from typing import Any, NoReturn

import gguf
import numpy as np

SCALARS = {0: "u1", 1: "i1", 2: "<u2", 3: "<i2", 4: "<u4", 5: "<i4", 6: "<f4", 7: "?", 10: "<u8", 11: "<i8", 12: "<f8"}
"""Types of metadata as NumPy has them; 8 is a string, 9 an array."""

STRING, ARRAY = 8, 9
MAX_DIMENSIONS = 4
MAX_ALIGNMENT = 1 << 16
SMALLEST_ENTRY, SMALLEST_TENSOR = 8 + 4 + 1, 8 + 4 + 8 + 4 + 8


@dataclasses.dataclass(frozen=True)
class Tensor:
    """Where a tensor lies.

    Attributes:
      shape: its sizes, the outermost first, as NumPy has them.
      kind: the block format.
      offset: of its first byte in the file.
      num_bytes: its length there.
    """

    shape: tuple[int, ...]
    kind: gguf.GGMLQuantizationType
    offset: int
    num_bytes: int


@dataclasses.dataclass(frozen=True)
class Header:
    """What a GGUF file says of itself.

    Attributes:
      path: the file.
      data: its bytes, mapped.
      metadata: numbers, strings, lists of strings, and NumPy arrays by key.
      tensors: by name, in the file's order.
    """

    path: str
    data: mmap.mmap
    metadata: dict[str, Any]
    tensors: dict[str, Tensor]


def read(path: str | os.PathLike) -> Header:
    """The header of a file.

    Raises:
      ValueError: it is no GGUF file, of another version, truncated, or it contradicts itself.
      OSError: it cannot be read.
    """
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size < 24:
            raise ValueError(f"{os.fspath(path)}: {size} bytes are too few for a GGUF file")
        data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    return _Reader(os.fspath(path), data).header()


class _Reader:
    """A cursor over the mapped file that never passes its end."""

    def __init__(self, path: str, data: mmap.mmap):
        self.path, self.data, self.at = path, data, 0

    def header(self) -> Header:
        if (magic := self.bytes(4, "magic")) != b"GGUF":
            self.refuse(f"magic={magic!r} must be b'GGUF'")
        version = self.number("<I", "version")
        if version not in (2, 3):
            swapped = int.from_bytes(version.to_bytes(4, "little"), "big") in (2, 3)
            self.refuse(f"version={version} must be 2 or 3" + (": the file is big-endian" if swapped else ""))
        tensors = self.number("<Q", "tensor count")
        entries = self.count("metadata entries", SMALLEST_ENTRY)
        metadata: dict[str, Any] = {}
        for _ in range(entries):
            key = self.string("a metadata key")
            if key in metadata:
                self.refuse(f"metadata key {key!r} occurs twice")
            metadata[key] = self.value(key)
        self.check_count(tensors, "tensors", SMALLEST_TENSOR)
        infos = self.infos(tensors)
        alignment = metadata.get("general.alignment", 32)
        if not isinstance(alignment, int) or not 0 < alignment <= MAX_ALIGNMENT or alignment & (alignment - 1):
            self.refuse(f"general.alignment={alignment!r} must be a power of two, at most {MAX_ALIGNMENT}")
        return Header(self.path, self.data, metadata, self.placed(infos, alignment))

    def infos(self, count: int) -> dict[str, tuple[tuple[int, ...], int, int]]:
        """Shape, type and offset of each tensor, as the file has them."""
        out = {}
        for _ in range(count):
            name = self.string("a tensor's name")
            if name in out:
                self.refuse(f"tensor {name!r} occurs twice")
            dimensions = self.number("<I", f"dimensions of {name}")
            if not 1 <= dimensions <= MAX_DIMENSIONS:
                self.refuse(f"{name} has {dimensions} dimensions, which must be 1 to {MAX_DIMENSIONS}")
            sizes = [self.number("<Q", f"size of {name}") for _ in range(dimensions)]
            kind, offset = self.number("<I", f"type of {name}"), self.number("<Q", f"offset of {name}")
            out[name] = tuple(reversed(sizes)), kind, offset
        return out

    def placed(self, infos: dict, alignment: int) -> dict[str, Tensor]:
        """The tensors, each inside the file and none over another."""
        begin = -(-self.at // alignment) * alignment
        tensors = {}
        for name, (shape, raw, offset) in infos.items():
            try:
                kind = gguf.GGMLQuantizationType(raw)
            except ValueError:
                self.refuse(f"{name} is of type {raw}, which is unknown")
            values, block_bytes = gguf.GGML_QUANT_SIZES[kind]
            if 0 in shape:
                self.refuse(f"{name} is of shape {shape}, which holds nothing")
            if shape[-1] % values:
                self.refuse(f"{name} has rows of {shape[-1]}, which must be a multiple of {kind.name}'s {values}")
            if offset % alignment:
                self.refuse(f"{name} has offset {offset}, which must be a multiple of the alignment {alignment}")
            num_bytes = block_bytes * (shape[-1] // values)
            for size in shape[:-1]:
                num_bytes *= size
            if begin + offset + num_bytes > len(self.data):
                self.refuse(f"{name} should end at byte {begin + offset + num_bytes}, the file has {len(self.data)}")
            tensors[name] = Tensor(shape, kind, begin + offset, num_bytes)
        order = sorted(tensors, key=lambda name: tensors[name].offset)
        for one, other in zip(order, order[1:]):
            if tensors[one].offset + tensors[one].num_bytes > tensors[other].offset:
                self.refuse(f"{one} and {other} overlap")
        return tensors

    def value(self, key: str) -> Any:
        kind = self.number("<I", f"type of {key}")
        if kind == STRING:
            return self.string(key)
        if kind == ARRAY:
            item = self.number("<I", f"item type of {key}")
            if item == STRING:
                return [self.string(key) for _ in range(self.count(f"items of {key}", 8))]
            dtype = self.dtype(item, key)
            count = self.count(f"items of {key}", dtype.itemsize)
            return np.frombuffer(self.bytes(count * dtype.itemsize, key), dtype)
        dtype = self.dtype(kind, key)
        return np.frombuffer(self.bytes(dtype.itemsize, key), dtype)[0].item()

    def dtype(self, kind: int, key: str) -> np.dtype:
        if kind not in SCALARS:
            self.refuse(f"{key} is of metadata type {kind}, which must be one of {sorted([*SCALARS, STRING, ARRAY])}")
        return np.dtype(SCALARS[kind])

    def string(self, what: str) -> str:
        text = self.bytes(self.count(f"bytes of {what}", 1), what)
        try:
            return text.decode("utf-8")
        except UnicodeDecodeError as error:
            self.refuse(f"{what} is not UTF-8: {error}")

    def count(self, what: str, smallest: int) -> int:
        """A count, of things that take at least so many bytes each."""
        count = self.number("<Q", what)
        self.check_count(count, what, smallest)
        return count

    def check_count(self, count: int, what: str, smallest: int) -> None:
        if count * smallest > len(self.data) - self.at:
            self.refuse(f"{count} {what} do not fit into the {len(self.data) - self.at} bytes that are left")

    def number(self, form: str, what: str) -> int:
        return struct.unpack(form, self.bytes(struct.calcsize(form), what))[0]

    def bytes(self, count: int, what: str) -> bytes:
        if count > len(self.data) - self.at:
            self.refuse(f"truncated at byte {len(self.data)}, in {what}")
        self.at += count
        return self.data[self.at - count : self.at]

    def refuse(self, reason: str) -> NoReturn:
        raise ValueError(f"{self.path}: {reason}")
