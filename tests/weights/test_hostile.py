"""Damaged and hostile files raise a ValueError that names file and reason; nothing in them is run or believed."""

import json
import os
import pickle
import subprocess
import sys

import pytest

from arch.weights import pretrained
from arch.weights.safetensors import HEADER_LIMIT, open_safetensors
from tests.weights import tiny

pytestmark = pytest.mark.usefixtures("tiny_family")

DATA = bytes(range(24))


def tensor(shape, start, stop, dtype="F32"):
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, stop]}


def packed(header, data=DATA, length=None):
    """A safetensors file with this header (a dict or raw JSON) and data, whether or not they agree."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


A, B = tensor([3], 0, 12), tensor([3], 12, 24)
TWICE = f'{{"a": {json.dumps(A)}, "a": {json.dumps(A)}}}'.encode()

DAMAGED = {
    "empty": (b"", "too small"),
    "of zeros": (bytes(64), "header"),
    "a pickle by another name": (pickle.dumps({"a": [1.0]}), "no safetensors file"),
    "with a header length of 2**63": (packed({"a": A}, length=2**63), "no safetensors file"),
    "with a header length over the limit": (packed({"a": A}, length=HEADER_LIMIT + 1), f"more than {HEADER_LIMIT}"),
    "with a header longer than the file": (packed({"a": A}, length=5000), "invalid header length"),
    "cut off in the header": (packed({"a": A})[:20], "invalid header length"),
    "cut off in the data": (packed({"a": A, "b": B})[:-1], "not fully covered"),
    "with data that no tensor holds": (packed({"a": A}), "not fully covered"),
    "with tensors that overlap": (packed({"a": A, "b": tensor([4], 8, 24)}), "invalid offset for tensor `b`"),
    "with one place for two tensors": (packed({"a": A, "b": A}, DATA[:12]), "invalid offset"),
    "with a hole between tensors": (packed({"a": A, "b": tensor([2], 16, 24)}), "invalid offset for tensor `b`"),
    "with a tensor past the end": (packed({"a": A, "b": tensor([300], 12, 1212)}), "not fully covered"),
    "with an end before its start": (packed({"a": tensor([3], 12, 0)}), "invalid"),
    "with a shape that disagrees with the offsets": (packed({"a": tensor([7], 0, 24)}), "invalid shape"),
    "with a type that disagrees with the offsets": (packed({"a": tensor([6], 0, 24, "F16")}), "invalid shape"),
    "with an unknown type": (packed({"a": tensor([6], 0, 24, "F31")}), "unknown variant `F31`"),
    "with a shape that overflows": (packed({"a": tensor([2**33, 2**33], 0, 24)}), "overflow"),
    "with a shape that overflows to nothing": (packed({"a": tensor([2**32, 2**32, 0], 0, 0)}, b""), "overflow"),
    "with a negative size": (packed({"a": tensor([-6], 0, 24)}), "invalid value"),
    "with a fractional size": (packed({"a": tensor([6.0], 0, 24)}), "invalid type"),
    "that names a tensor twice": (packed(TWICE, DATA[:12]), "'a' is there twice"),
    "that names a tensor twice in two places": (packed(TWICE.replace(b"[0, 12]", b"[12, 24]", 1)), "not fully covered"),
    "with a header that is no object": (packed([A]), "invalid type"),
    "with a header that is no text": (packed(b'{"\xff": 1}'), "UTF-8"),
    "with a header nested deeply": (packed(b'{"a":' * 9999 + b"1" + b"}" * 9999), "recursion"),
    "with metadata that is no text": (packed({"__metadata__": {"a": {}}}, b""), "invalid type"),
}


def write_json(folder, name, value):
    (folder / name).write_text(value if isinstance(value, str) else json.dumps(value))


@pytest.fixture
def bare(tmp_path):
    """A folder with a config and no tensors."""
    write_json(tmp_path, "config.json", {"model_type": "tiny"})
    return tmp_path


def refused(folder, reason, file="model.safetensors"):
    with pytest.raises(ValueError) as error:
        pretrained.open(folder)
    assert str(folder / file) in str(error.value) and reason in str(error.value)


@pytest.mark.parametrize("kind", DAMAGED)
def test_a_file_is_refused(bare, kind):
    raw, reason = DAMAGED[kind]
    (bare / "model.safetensors").write_bytes(raw)
    refused(bare, reason)


def test_a_file_of_the_same_making_that_tells_the_truth_is_read(bare):
    (bare / "model.safetensors").write_bytes(packed({"a": A, "b": B}))
    assert open_safetensors(bare).read("b").tobytes() == DATA[12:]


def test_a_file_that_changes_after_it_was_opened_is_refused(bare):
    (bare / "model.safetensors").write_bytes(packed({"a": A, "b": B}))
    source = open_safetensors(bare)
    (bare / "model.safetensors").write_bytes(packed({"a": A}, DATA[:12]))
    with pytest.raises(ValueError, match="model.safetensors changed while it was read"):
        source.read("b")


class Trap:
    """What would make a file if it were unpickled."""

    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return os.mkdir, (str(self.file),)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.pth", "last.ckpt", "model.pkl"])
@pytest.mark.parametrize("by_name", [False, True], ids=["in a folder", "by name"])
def test_a_pickle_is_refused_and_not_run(bare, name, by_name):
    (bare / name).write_bytes(pickle.dumps(Trap(bare / "trapped")))
    with pytest.raises(ValueError, match=f"{name} is a pickle, which runs code when it is read"):
        pretrained.open(bare / name if by_name else bare)
    assert not (bare / "trapped").exists()


def test_a_folder_without_tensors_is_refused(bare):
    with pytest.raises(ValueError, match="holds neither model.safetensors nor model.safetensors.index.json"):
        pretrained.open(bare)


def test_an_absent_path_is_named(tmp_path):
    refused(tmp_path / "absent", "there is no", "")


SCRIPT = """
import resource, sys
from arch.weights.safetensors import open_safetensors
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 64 * 2**20, used + 64 * 2**20))
for folder in sys.argv[1:]:
    try:
        open_safetensors(folder)
    except ValueError:
        continue
    sys.exit(f"{folder} was opened")
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="reads /proc/self/statm")
def test_no_damaged_file_costs_memory(tmp_path):
    folders = []
    for i, (raw, _) in enumerate(DAMAGED.values()):
        folders.append(tmp_path / str(i))
        folders[-1].mkdir()
        write_json(folders[-1], "config.json", {"model_type": "tiny"})
        (folders[-1] / "model.safetensors").write_bytes(raw)
    done = subprocess.run([sys.executable, "-c", SCRIPT, *folders], capture_output=True, text=True, cwd=tiny.ROOT)
    assert done.returncode == 0, done.stderr
