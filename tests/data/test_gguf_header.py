"""A GGUF header is read as the library reads it, and one that lies is refused in bounded time and memory."""

import struct
import tracemalloc

import gguf
import numpy as np
import pytest

from arch.data import gguf_header
from tests.data.gguf_file import F32, assemble, build, entry, header, info, text

METADATA = {"general.architecture": "llama", "a": 3, "b": 0.5, "c": True, "d": ["x", "", "é"], "e": [1, 2]}
Q4_0 = gguf.GGMLQuantizationType.Q4_0
TENSORS = {"one": np.ones((2, 3)), "two": ((5, 32), Q4_0, bytes(5 * 18)), "three": np.zeros(7)}
ENTRY = entry("general.architecture", "llama")
DATA = bytes(64)


@pytest.mark.filterwarnings("ignore::DeprecationWarning:gguf")
def test_the_header_is_what_the_library_reads(tmp_path):
    ours = header(tmp_path, build(METADATA, TENSORS))
    theirs = gguf.GGUFReader(ours.path)
    shapes = {tensor.name: tuple(reversed(tensor.shape.tolist())) for tensor in theirs.tensors}
    places = {t.name: (shapes[t.name], t.tensor_type, t.data_offset, t.n_bytes) for t in theirs.tensors}
    assert {name: (t.shape, t.kind, t.offset, t.num_bytes) for name, t in ours.tensors.items()} == places
    plain = {key: value.tolist() if isinstance(value, np.ndarray) else value for key, value in ours.metadata.items()}
    assert plain == METADATA == {key: theirs.fields[key].contents() for key in METADATA}


def test_another_alignment_is_followed(tmp_path):
    raw = assemble([entry("general.alignment", 64)], [info("x", (3,), F32, 64)], bytes(64) + bytes(12), alignment=64)
    tensor = header(tmp_path, raw).tensors["x"]
    assert tensor.offset + tensor.num_bytes == len(raw)


def lying_length(length):
    return struct.pack("<Q", length) + b"key"


HOSTILE = {
    "empty": (b"", "0 bytes are too few"),
    "another magic": (assemble([ENTRY], [], DATA, magic=b"GGML"), "magic=b'GGML' must be b'GGUF'"),
    "version 1": (assemble([ENTRY], [], DATA, version=1), "version=1 must be 2 or 3"),
    "big-endian": (assemble([ENTRY], [], DATA, version=3 << 24), "the file is big-endian"),
    "many tensors": (assemble([ENTRY], [], DATA, counts=(2**63, 1)), "9223372036854775808 tensors do not fit"),
    "many entries": (assemble([ENTRY], [], DATA, counts=(0, 2**60)), "metadata entries do not fit"),
    "one entry too many": (assemble([ENTRY], [], DATA, counts=(0, 3)), "metadata key '' occurs twice"),
    "long string": (assemble([lying_length(2**40)], [], DATA), "1099511627776 bytes of a metadata key do not fit"),
    "long string, wrapped": (assemble([lying_length(2**64 - 8)], [], DATA), "bytes of a metadata key do not fit"),
    "long array": (assemble([text("a") + struct.pack("<IIQ", 9, 4, 2**62)], [], DATA), "items of a do not fit"),
    "many strings": (assemble([text("a") + struct.pack("<IIQ", 9, 8, 2**62)], [], DATA), "items of a do not fit"),
    "array of arrays": (assemble([text("a") + struct.pack("<IIQ", 9, 9, 1)], [], DATA), "a is of metadata type 9"),
    "unknown metadata type": (assemble([text("a") + struct.pack("<I", 13)], [], DATA), "a is of metadata type 13"),
    "broken UTF-8": (assemble([text(b"\xff\xfe") + struct.pack("<II", 4, 1)], [], DATA), "a metadata key is not UTF-8"),
    "a key twice": (assemble([ENTRY, ENTRY], [], DATA), "metadata key 'general.architecture' occurs twice"),
    "a name twice": (assemble([], [info("x", (3,), F32, 0), info("x", (3,), F32, 32)], DATA), "'x' occurs twice"),
    "offset past the end": (assemble([], [info("x", (3,), F32, 1 << 40)], DATA), "x should end at byte"),
    "one byte past the end": (assemble([], [info("x", (17,), F32, 0)], DATA), "x should end at byte"),
    "huge sizes": (assemble([], [info("x", (2**62, 2**62), F32, 0)], DATA), "x should end at byte"),
    "overlap": (assemble([], [info("x", (9,), F32, 0), info("y", (3,), F32, 32)], DATA), "x and y overlap"),
    "odd offset": (assemble([], [info("x", (3,), F32, 8)], DATA), "x has offset 8, which must be a multiple of"),
    "unknown tensor type": (assemble([], [info("x", (3,), 4, 0)], DATA), "x is of type 4, which is unknown"),
    "half a block": (assemble([], [info("x", (33,), 2, 0)], DATA), "rows of 33, which must be a multiple of Q4_0's 32"),
    "no values": (assemble([], [info("x", (3, 0), F32, 0)], DATA), "x is of shape (3, 0), which holds nothing"),
    "no dimensions": (assemble([], [info("x", (), F32, 0)], DATA), "x has 0 dimensions"),
    "many dimensions": (assemble([], [info("x", (1,) * 5, F32, 0)], DATA), "x has 5 dimensions"),
    "odd alignment": (assemble([entry("general.alignment", 24)], [], DATA), "alignment=24 must be a power of two"),
    "no alignment": (assemble([entry("general.alignment", 0)], [], DATA), "alignment=0 must be a power of two"),
    "alignment in words": (assemble([entry("general.alignment", "8")], [], DATA), "general.alignment='8' must be"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_file_is_refused_by_name_and_reason(tmp_path, case):
    raw, reason = HOSTILE[case]
    tracemalloc.start()
    try:
        with pytest.raises(ValueError) as error:
            header(tmp_path, raw)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert reason in str(error.value) and "file.gguf" in str(error.value)
    assert peak < 1 << 20


def test_a_file_cut_anywhere_is_refused(tmp_path):
    whole = build(METADATA, TENSORS)
    last = header(tmp_path, whole).tensors["three"]
    for length in range(last.offset + last.num_bytes):
        (tmp_path / "cut.gguf").write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"cut\.gguf: "):
            gguf_header.read(tmp_path / "cut.gguf")
