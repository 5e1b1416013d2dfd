"""What benchmarks/tasks.py says of a run's data."""

import collections
import json

import pytest

from arch.data import corpus, tokenized
from benchmarks import tasks


def write(folder, **cfg):
    records = [{"text": f"t{i}", "label": "abbb"[i % 4]} for i in range(60)]
    (folder / "a.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    cfg = tokenized.Config(path=str(folder / "a.jsonl"), valid_fraction=0.3, **cfg)
    tokenized.prepare(cfg, folder / "data")
    splitter = corpus.Splitter(corpus.read(cfg.sources()[0]), 0.3)
    return [record["label"] for i, record in enumerate(records) if splitter(f"a.jsonl#{i}") == "valid"]


def test_labels_are_counted_with_the_share_of_the_likeliest(tmp_path):
    counts = collections.Counter(write(tmp_path, kind="classes"))
    share = pytest.approx(max(counts.values()) / counts.total(), abs=1e-4)
    assert tasks.labels(tmp_path) == {"valid_labels": counts.total(), "likeliest": share} and len(counts) == 2


def test_text_has_none(tmp_path):
    write(tmp_path)
    assert tasks.labels(tmp_path) == {}
