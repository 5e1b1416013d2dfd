"""Builds GGUF files byte by byte, so that a test may lie in any place."""

import struct

import gguf
import numpy as np

from arch.data import gguf_header

KINDS = {bool: (7, "<?"), int: (4, "<I"), float: (6, "<f")}
F32 = gguf.GGMLQuantizationType.F32


def text(value):
    """A string: length and bytes."""
    raw = value if isinstance(value, bytes) else value.encode()
    return struct.pack("<Q", len(raw)) + raw


def entry(key, value):
    """One entry of the metadata, typed as Python's value is; a list is an array."""
    if isinstance(value, str):
        return text(key) + struct.pack("<I", 8) + text(value)
    if isinstance(value, list) and isinstance(value[0], str):
        return text(key) + struct.pack("<IIQ", 9, 8, len(value)) + b"".join(map(text, value))
    if isinstance(value, list):
        kind, form = KINDS[type(value[0])]
        return text(key) + struct.pack("<IIQ", 9, kind, len(value)) + b"".join(struct.pack(form, v) for v in value)
    kind, form = KINDS[type(value)]
    return text(key) + struct.pack("<I", kind) + struct.pack(form, value)


def info(name, shape, kind, offset):
    """What stands in the header of one tensor; `shape` outermost first."""
    sizes = list(reversed(shape))
    return text(name) + struct.pack(f"<I{len(sizes)}QIQ", len(sizes), *sizes, kind, offset)


def assemble(entries, infos, data, *, magic=b"GGUF", version=3, counts=None, alignment=32):
    """The file's bytes; `counts` are (tensors, entries) as they shall be claimed."""
    counts = (len(infos), len(entries)) if counts is None else counts
    head = magic + struct.pack("<IQQ", version, *counts) + b"".join(entries) + b"".join(infos)
    return head + bytes(-len(head) % alignment) + data


def build(metadata, tensors, **how):
    """A file of metadata and tensors: name -> float32 array, or (shape, kind, bytes)."""
    infos, data = [], b""
    for name, tensor in tensors.items():
        shape, kind, raw = tensor if isinstance(tensor, tuple) else (tensor.shape, F32, np.float32(tensor).tobytes())
        infos.append(info(name, shape, kind, len(data)))
        data += raw + bytes(-len(raw) % 32)
    return assemble([entry(*pair) for pair in metadata.items()], infos, data, **how)


def header(tmp_path, raw):
    """The header of a file of these bytes."""
    (tmp_path / "file.gguf").write_bytes(raw)
    return gguf_header.read(tmp_path / "file.gguf")
