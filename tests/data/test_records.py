"""Files of records as documents, in whatever format they come."""

import gzip
import importlib
import json
import logging
import sys
import tracemalloc
import types

import numpy as np
import pytest
from array_record.python import array_record_module

from arch.data import corpus, tf_example, tokenized, tokenizing

TEXTS = ["one", "naïve two", "three\nlines\nhere", "道 four"]


def documents(path, **fields):
    return list(corpus.read(corpus.Config(path=str(path), **fields)))


def jsonl(path, texts=TEXTS, field="text", opened=open):
    with opened(path, "wt", encoding="utf-8") as file:
        file.writelines(json.dumps({"id": i, field: text}) + "\n" for i, text in enumerate(texts))
    return path


def jsonl_gz(path):
    return jsonl(path, opened=gzip.open)


def parquet(path, field="text"):
    pyarrow = pytest.importorskip("pyarrow")
    table = pyarrow.table({"id": range(4), field: TEXTS})
    importlib.import_module("pyarrow.parquet").write_table(table, path, row_group_size=3)
    return path


def arrow(path, new="new_stream"):
    pyarrow = pytest.importorskip("pyarrow")
    table = pyarrow.table({"id": range(4), "text": TEXTS})
    with getattr(pyarrow.ipc, new)(path, table.schema) as writer:
        writer.write_table(table, max_chunksize=3)
    return path


def arrow_file(path):
    return arrow(path, "new_file")


def message(number, *parts):
    """A field of bytes in protocol buffers' wire format."""
    body, head = b"".join(parts), bytes([number << 3 | 2])
    return head + (bytes([len(body)]) if len(body) < 128 else bytes([len(body) & 127 | 128, len(body) >> 7])) + body


def example(text, name=b"text"):
    """A tf.train.Example of an integer feature and of one of bytes."""
    number = message(1, message(1, b"id"), message(2, message(3, message(1, b"\x07"))))
    return message(1, number, message(1, message(1, name), message(2, message(1, message(1, text.encode())))))


def array_record(path, encode=example):
    writer = array_record_module.ArrayRecordWriter(str(path), "group_size:1")
    for text in TEXTS:
        writer.write(encode(text))
    writer.close()
    return path


FORMATS = {
    "a.jsonl": jsonl,
    "a.jsonl.gz": jsonl_gz,
    "a.parquet": parquet,
    "a.arrow": arrow,
    "b.arrow": arrow_file,
    "a.array_record": array_record,
}


@pytest.mark.parametrize("name", FORMATS)
def test_a_record_is_a_document_in_its_place(tmp_path, name):
    FORMATS[name](tmp_path / name)
    expected = [(f"{name}#{i}", text) for i, text in enumerate(TEXTS)]
    assert documents(tmp_path / name) == expected == documents(tmp_path)


@pytest.mark.parametrize("name", FORMATS)
def test_a_record_without_the_field_is_refused_with_what_there_is(tmp_path, name):
    FORMATS[name](tmp_path / name)
    with pytest.raises(ValueError, match=rf"data\.field='body' must be .*{'text' if 'array' in name else 'id, text'}"):
        documents(tmp_path / name, field="body")


@pytest.mark.parametrize("name", FORMATS)
def test_a_damaged_file_is_named(tmp_path, name):
    raw = FORMATS[name](tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(raw[: len(raw) * 2 // 3])
    with pytest.raises(ValueError, match=rf"{name}' must (be|hold) a"):
        documents(tmp_path / name)


@pytest.mark.parametrize("name", FORMATS)
def test_any_format_is_tokenised_into_the_same_splits(tmp_path, name):
    FORMATS[name](tmp_path / name)
    cfg = tokenized.Config(path=str(tmp_path / name), valid_fraction=0.3)
    data = tokenized.prepare(cfg, tmp_path / "data")
    both = [data.tokenizer.decode(split.tokens[a:b]) for split in data.splits.values() for a, b in pairs(split.offsets)]
    assert sorted(both) == sorted(TEXTS)


def pairs(offsets):
    return zip(offsets, offsets[1:])


def test_another_field_may_hold_the_text(tmp_path):
    path = jsonl(tmp_path / "a.jsonl", field="body")
    assert [text for _, text in documents(path, field="body")] == TEXTS


def test_bare_records_are_texts_without_a_field(tmp_path):
    path = array_record(tmp_path / "a.array_record", encode=lambda text: text.encode())
    assert [text for _, text in documents(path, field="")] == TEXTS
    with pytest.raises(ValueError, match="must be a tf.train.Example, or data.field=''"):
        documents(path)


def test_the_fields_of_an_example_are_found_by_name():
    assert tf_example.parse(example("x" * 300, b"body")) == {"body": [b"x" * 300], "id": [7]}


def test_in_a_folder_files_come_whole_in_a_fixed_order_and_text_beside_them_is_left_out(tmp_path):
    (tmp_path / "README.md").write_text("about")
    for name in "abc":
        jsonl(tmp_path / f"{name}.jsonl", [f"{name}{i}" for i in range(5)])
    files = [text[0] for _, text in documents(tmp_path)]
    assert sorted(files[::5]) == ["a", "b", "c"] and files == [name for name in files[::5] for _ in range(5)]


def test_formats_side_by_side_want_one_of_them_named(tmp_path):
    jsonl(tmp_path / "a.jsonl")
    array_record(tmp_path / "b.array_record")
    with pytest.raises(ValueError, match=r"data\.format='' must name one of array_record, jsonl"):
        documents(tmp_path)
    assert [text for _, text in documents(tmp_path, format="array_record")] == TEXTS


def test_the_format_may_be_named_against_the_ending(tmp_path):
    path = jsonl(tmp_path / "a.jsonl", ["x"])
    assert [text for _, text in documents(path, format="text")] == ['{"id": 0, "text": "x"}\n']
    other = jsonl(tmp_path / "b.json", ["x"])
    assert [text for _, text in documents(other, format="jsonl")] == ["x"]


def test_empty_texts_are_left_out_and_records_keep_their_numbers(tmp_path):
    assert [name for name, _ in documents(jsonl(tmp_path / "a.jsonl", ["x", "", "y"]))] == ["a.jsonl#0", "a.jsonl#2"]


def test_a_field_that_is_no_text_is_refused(tmp_path):
    with pytest.raises(ValueError, match="data.field='text' must be text: record 1 has 3"):
        documents(jsonl(tmp_path / "a.jsonl", ["x", 3]))


def saved(folder, names=("data-00000-of-00002.arrow", "data-00001-of-00002.arrow")):
    """What `Dataset.save_to_disk` writes, and a file of its cache."""
    folder.mkdir(parents=True)
    for name in (*names, "cache-1.arrow"):
        arrow(folder / name)
    (folder / "dataset_info.json").write_text("{}")
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": name} for name in names]}))
    return folder


def test_a_saved_data_set_is_its_files_in_order(tmp_path):
    assert [text for _, text in documents(saved(tmp_path / "set"))] == TEXTS * 2


def test_of_saved_splits_one_is_to_be_named(tmp_path):
    saved(tmp_path / "set" / "train")
    saved(tmp_path / "set" / "test")
    (tmp_path / "set" / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    with pytest.raises(ValueError, match="set' must be the folder of one split: it holds test, train"):
        documents(tmp_path / "set")
    assert len(documents(tmp_path / "set" / "train")) == 8


def test_without_pyarrow_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    for name in ("a.parquet", "a.arrow"):
        (tmp_path / name).write_bytes(b"")
        with pytest.raises(ValueError, match=r"needs the library pyarrow .*pip install 'arch-jax\[data\]'"):
            documents(tmp_path / name)


def hub(monkeypatch, rows):
    """Stands for the `datasets` library; notes what it is asked for."""
    asked = []

    def load_dataset(*args, **how):
        asked.append((*args, how))
        if isinstance(rows, Exception):
            raise rows
        return iter(rows)

    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load_dataset))
    return asked


def test_a_data_set_of_the_hub_is_streamed_and_says_that_its_order_is_not_ours(monkeypatch, caplog):
    asked = hub(monkeypatch, [{"text": text} for text in TEXTS])
    with caplog.at_level(logging.INFO, logger="arch"):
        assert [text for _, text in documents("hf://owner/name#subset")] == TEXTS
    assert asked == [("owner/name", "subset", {"split": "train", "streaming": True})]
    assert "its order is the hub's, not shard-invariant until it is tokenised" in caplog.text


def test_the_hub_is_read_once_and_no_further_than_the_budget(monkeypatch, tmp_path):
    asked = hub(monkeypatch, ({"text": f"text {i}"} for i in range(10**9)))
    data = tokenized.prepare(tokenized.Config(path="hf://owner/name", max_bytes=600), tmp_path / "data")
    assert len(asked) == 1 and sum(split.num_bytes for split in data.splits.values()) <= 600
    assert not list((tmp_path / "data").glob("*.jsonl"))


def test_a_hub_out_of_reach_is_named(monkeypatch):
    hub(monkeypatch, ConnectionError("no network"))
    with pytest.raises(ValueError, match="data.path='hf://a/b' cannot be read from the hub .no network"):
        documents("hf://a/b")


def test_without_the_datasets_library_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ValueError, match=r"pip install 'arch-jax\[hub\]'"):
        documents("hf://a/b")


@pytest.mark.parametrize("name", ["a.jsonl", "a.array_record"])
def test_a_tokenizer_is_trained_on_any_source(tmp_path, name):
    FORMATS[name](tmp_path / name)
    made = tokenized.tokenizers.Config(kind="bpe", vocab_size=260)
    data = tokenized.prepare(tokenized.Config(path=str(tmp_path / name), tokenizer=made), tmp_path / "data")
    assert 257 < data.tokenizer.size <= 260


@pytest.mark.parametrize("budget, share", [(1_000, 0.1), (4_000, 0.4), (10**6, 0.95)])
def test_a_tokenizer_sees_no_more_text_than_its_budget(tmp_path, budget, share):
    path = jsonl(tmp_path / "a.jsonl", [f"{i:010d}" for i in range(1_000)])
    cfg = tokenized.Config(path=str(path), tokenizer_max_bytes=budget)
    sources, splitters = cfg.sources(), [corpus.Splitter(corpus.read(cfg.sources()[0]), cfg.valid_fraction)]
    taken = list(tokenizing._sample(cfg, sources, splitters))
    assert 0.8 * share * 10_000 < sum(map(len, taken)) <= budget
    assert np.ptp([int(text) for text in taken if len(text) == 10]) > 900  # from all over the corpus


@pytest.mark.slow
def test_a_corpus_is_tokenised_without_being_held_in_memory(tmp_path):
    path = jsonl(tmp_path / "a.jsonl", (f"text {i} " * 100 for i in range(16_000)))
    size = path.stat().st_size
    tracemalloc.start()
    try:
        tokenized.prepare(tokenized.Config(path=str(path)), tmp_path / "data")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert size > 16 * 2**20 and peak < 4 * 2**20
