"""The token stream of configs/demo.py is the one that its published result was trained on."""

import hashlib
import pathlib
import runpy
import sysconfig

import pytest

from arch import config
from arch.data import dataset

DEMO = pathlib.Path(__file__).parents[2] / "configs" / "demo.py"


def written(folder):
    """Stands for the standard library, whose text is another on each version of Python."""
    words = ["def", "self", "return", "naïve", "value", "None", "import", "yield"]
    (folder / "package").mkdir(parents=True)
    for i in range(61):
        lines = (f"{words[i * j % 7]}_{i * j % 11} = {words[(i + j) % 8]}({i + j})\n" for j in range(1, 3 + i % 13 * 4))
        (folder / ("package" if i % 3 else "") / f"module_{i}.py").write_text("".join(lines), encoding="utf-8")


def digest(data, split, steps):
    """SHA-256 of the tokens, targets, segments and positions of these steps."""
    batches = dataset.make(dataset.packed(data, split, seq_len=128, seed=0), batch_size=8)
    names = ("tokens", "targets", "segment_ids", "positions", "ids")
    return hashlib.sha256(b"".join(batches[i][name].tobytes() for i in steps for name in names)).hexdigest()[:16]


def library(folder):
    """The demo's own data: a byte-pair encoding trained on the standard library."""
    return runpy.run_path(str(DEMO))["get_config"]().data


def one_file(folder):
    """A single file, cut into pieces."""
    text = "".join(file.read_text(encoding="utf-8") for file in sorted(folder.rglob("*.py")))
    (folder.parent / "all.txt").write_text(text, encoding="utf-8")
    return {"path": str(folder.parent / "all.txt"), "piece_chars": 257, "max_bytes": 20_000}


# Computed before documents were streamed and before there were other sources than text files.
PINNED = {
    "library": ("9166c6861d895f02", "a0db3c94bf88c0dd"),
    "one_file": ("7fe6eb18f52be7a4", "5f8273c4bf6fca8b"),
}


@pytest.mark.parametrize("source", [library, one_file], ids=lambda source: source.__name__)
def test_the_first_batches_are_bit_for_bit_what_they_were(tmp_path, monkeypatch, source):
    written(tmp_path / "lib")
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path / "lib"))
    cfg = config.from_dict(dataset.Config, source(tmp_path / "lib"))
    data = dataset.prepare(cfg, tmp_path / "data")
    assert (digest(data, "train", range(5)), digest(data, "valid", range(2))) == PINNED[source.__name__]
