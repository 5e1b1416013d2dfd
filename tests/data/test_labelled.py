"""Records of classes, tags and conversations as tokens with labels, in whatever format they come."""

import gzip
import hashlib
import json

import numpy as np
import pytest
import tokenizers
from array_record.python import array_record_module
from tokenizers import models, pre_tokenizers, processors

from arch.data import corpus, document_tokens, labelled, tokenized
from arch.data import tokenizer as makers
from arch.data.foreign_tokenizer import Foreign, Roles

CLASSES = [{"text": text, "label": label} for text, label in (("a b", "x"), ("naïve", "y"), ("c", "x"), ("道 d", "x"))]
PAIRS = [record | {"other": f"and {i}"} for i, record in enumerate(CLASSES)]
TAGS = [{"tokens": [f"w{i}", "道", "x"][: 1 + i % 3], "tags": ["B", "O", "I"][: 1 + i % 3]} for i in range(5)]
CHAT = [{"messages": [{"role": "user", "content": f"q{i}"}, {"role": "assistant", "content": "é"}]} for i in range(4)]
KINDS = {
    "classes": (CLASSES, dict(kind="classes")),
    "pairs": (PAIRS, dict(kind="classes", pair_field="other")),
    "tags": (TAGS, dict(kind="tags", field="tokens", label_field="tags")),
    "chat": (CHAT, dict(kind="chat", field="messages")),
}


def jsonl(path, records):
    with (gzip.open if path.suffix == ".gz" else open)(path, "wt", encoding="utf-8") as file:
        file.writelines(json.dumps({"id": 7} | record) + "\n" for record in records)
    return path


def parquet(path, records):
    pyarrow = pytest.importorskip("pyarrow")
    pytest.importorskip("pyarrow.parquet").write_table(pyarrow.Table.from_pylist(records), path, row_group_size=3)
    return path


def arrow(path, records):
    pyarrow = pytest.importorskip("pyarrow")
    table = pyarrow.Table.from_pylist(records)
    with pyarrow.ipc.new_stream(path, table.schema) as writer:
        writer.write_table(table, max_chunksize=3)
    return path


def array_record(path, records, encode=lambda record: json.dumps(record).encode()):
    writer = array_record_module.ArrayRecordWriter(str(path), "group_size:1")
    for record in records:
        writer.write(encode(record))
    writer.close()
    return path


def message(number, *parts):
    body = b"".join(parts)
    return bytes([number << 3 | 2, len(body)]) + body


def example(record):
    """A tf.train.Example of lists of bytes and of integers."""

    def feature(value):
        values = value if isinstance(value, list) else [value]
        if isinstance(values[0], int):
            return message(3, message(1, bytes(values)))
        return message(1, *(message(1, text.encode()) for text in values))

    return message(1, *(message(1, message(1, k.encode()), message(2, feature(v))) for k, v in record.items()))


FORMATS = {
    "a.jsonl": jsonl,
    "a.jsonl.gz": jsonl,
    "a.parquet": parquet,
    "a.arrow": arrow,
    "a.array_record": array_record,
}


def documents(path, kind, **fields):
    return list(corpus.read(corpus.Config(path=str(path), **fields), kind))


def prepared(path, folder, **fields):
    return tokenized.prepare(tokenized.Config(path=str(path), valid_fraction=0.3, **fields), folder)


def held(data, split="train"):
    """The text and labels of each document of a split."""
    part = data.splits[split]
    for a, b in zip(part.offsets, part.offsets[1:]):
        yield data.tokenizer.decode(part.tokens[a:b]), part.columns["labels"][a:b].tolist()


@pytest.mark.parametrize("kind", KINDS)
def test_any_format_holds_the_same_documents(tmp_path, kind):
    records, fields = KINDS[kind]
    found = [documents(FORMATS[name](tmp_path / name, records), **fields) for name in FORMATS]
    assert len(found[0]) == len(records) and [d.name for d in found[0]] == [f"a.jsonl#{i}" for i in range(len(records))]
    assert all([d[1:] for d in one] == [d[1:] for d in found[0]] for one in found)


@pytest.mark.parametrize("kind", ["classes", "tags"])
def test_features_of_an_example_are_lists_where_tags_are_read(tmp_path, kind):
    records, fields = KINDS[kind]
    path = array_record(tmp_path / "a.array_record", records, example)
    assert [d[1:] for d in documents(path, **fields)] == [
        d[1:] for d in documents(jsonl(tmp_path / "a.jsonl", records), **fields)
    ]


def test_labels_may_be_integers_and_are_ordered_by_value(tmp_path):
    records = [{"text": "t", "label": label} for label in (10, 9, -1)]
    path = array_record(tmp_path / "a.array_record", records[:2], example)
    assert [d.labels for d in documents(path, "classes")] == [("10",), ("9",)]
    found = labelled.names(documents(jsonl(tmp_path / "b.jsonl", [*records, {"text": "t", "label": "a"}]), "classes"))
    assert found == {"-1": 0, "9": 1, "10": 2, "a": 3}


def test_a_class_stands_at_the_first_token(tmp_path):
    data = prepared(jsonl(tmp_path / "a.jsonl", CLASSES * 5), tmp_path / "data", kind="classes")
    ids = {record["text"]: sorted({"x", "y"}).index(record["label"]) for record in CLASSES}
    assert data.meta["labels"] == ["x", "y"] and data.splits["train"].columns.keys() == {"labels"}
    for text, labels in held(data):
        assert labels == [ids[text], *[-1] * (len(text.encode()) + 1)]


def test_pairs_have_types_and_a_separator_behind_each_text(tmp_path):
    records, fields = KINDS["pairs"]
    data = prepared(jsonl(tmp_path / "a.jsonl", records), tmp_path / "data", **fields)
    part = data.splits["train"]
    types = part.columns["token_types"][: part.offsets[1]]
    tokens = part.tokens[: part.offsets[1]]
    ends = np.flatnonzero(tokens == data.tokenizer.separator)
    assert ends.tolist() == [0, ends[1], len(tokens) - 1]
    assert types.tolist() == [0] * (ends[1] + 1) + [1] * (len(tokens) - 1 - ends[1])


def wordpiece():
    words = ["[UNK]", "[CLS]", "[SEP]", "go", "##es", "on", "the", "##n"]
    made = tokenizers.Tokenizer(models.WordPiece({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    made.add_special_tokens(["[UNK]", "[CLS]", "[SEP]"])
    return Foreign(made, Roles(cls_token="[CLS]", sep_token="[SEP]", unk_token="[UNK]"))


def trained(texts=("the road goes on and on",)):
    return makers.train(texts, 300)


def tags_of(maker, words):
    """Each token with its label, 0, 1, ... for the words; special tokens are ''."""
    document = labelled.Labelled("d", " ".join(words), tuple(words), tuple(map(str, range(len(words)))))
    (found,) = document_tokens.encode("tags", maker, [document], {str(i): i for i in range(len(words))})
    return [(maker.decode([i]), int(label)) for i, label in zip(found["tokens"], found["labels"])]


def test_the_first_piece_of_a_word_carries_its_tag():
    found = tags_of(wordpiece(), ["then", "goes", "on"])
    assert [label for _, label in found] == [-1, 0, -1, 1, -1, 2, -1]


@pytest.mark.parametrize("maker", [makers.Bytes(), trained(), wordpiece()], ids=lambda m: type(m).__name__)
def test_each_word_has_its_tag_once(maker):
    words = ["the", "道路", "goes-on", "naïve", "a"]
    labels = [label for _, label in tags_of(maker, words)]
    assert [label for label in labels if label >= 0] == list(range(len(words)))
    assert labels[0] == labels[-1] == -1


def test_of_bytes_the_space_before_a_word_is_not_its_first():
    assert tags_of(makers.Bytes(), ["ab", "c"])[1:-1] == [("a", 0), ("b", -1), (" ", -1), ("c", 1)]


def test_a_word_without_tokens_of_its_own_has_no_tag():
    assert [label for _, label in tags_of(wordpiece(), ["the", "", "on"])] == [-1, 0, 2, -1]


def test_a_published_tokenizer_puts_its_own_tokens_around_a_pair():
    document = labelled.Labelled("d", "the\non", ("the", "on"), ("x",))
    (found,) = document_tokens.encode("classes", wordpiece(), [document], {"x": 0})
    assert found["tokens"].tolist() == [1, 6, 2, 5, 2] and found["token_types"].tolist() == [0, 0, 0, 1, 1]
    assert found["labels"].tolist() == [0, -1, -1, -1, -1]


def test_a_pair_of_a_tokenizer_without_types_still_has_two_parts():
    """As RoBERTa's: two tokens between the texts, all of type 0."""
    maker = wordpiece()._tokenizer
    maker.post_processor = processors.RobertaProcessing(("[SEP]", 2), ("[CLS]", 1))
    (found,) = Foreign(maker, Roles(cls_token="[CLS]", sep_token="[SEP]")).enclosed([("the the", "on")])
    assert found.ids.tolist() == [1, 6, 6, 2, 2, 5, 2] and not found.types.any()
    assert found.parts.tolist() == [0, 0, 0, 0, 1, 1, 1]


def test_a_tokenizer_made_here_may_have_special_tokens_of_its_own_for_it():
    maker = makers.Bytes(["[SEP]", "[CLS]"])
    (found,) = maker.enclosed([("a", "b")])
    assert found.ids.tolist() == [maker.special("[CLS]"), 97, maker.special("[SEP]"), 98, maker.special("[SEP]")]
    assert found.types.tolist() == [0, 0, 0, 1, 1]


WRONG = {
    "no text": (dict(kind="classes"), {"text": 3, "label": "x"}, "data.field must hold a text, and not 3"),
    "no label": (dict(kind="classes"), {"text": "t", "label": 0.5}, "must hold labels, texts or integers, and not 0.5"),
    "no words": (KINDS["tags"][1], {"tokens": "a b", "tags": ["x"]}, "must hold a list of words, and not 'a b'"),
    "tags too few": (KINDS["tags"][1], {"tokens": ["a", "b"], "tags": ["x"]}, "a tag for each of 2 words"),
    "no messages": (KINDS["chat"][1], {"messages": "hello"}, "must hold a list of messages, and not 'hello'"),
    "a call of tools": (
        KINDS["chat"][1],
        {"messages": [{"role": "assistant", "content": "x", "tool_calls": [1]}]},
        "a role and a content, both texts, and nothing else: .*'tool_calls'",
    ),
    "no answer": (KINDS["chat"][1], {"messages": [{"role": "user", "content": "x"}]}, "must have an answer"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_record_that_is_none_is_named_with_its_value(tmp_path, case):
    fields, record, message = WRONG[case]
    with pytest.raises(ValueError, match=f"document 'a.jsonl#0': .*{message}"):
        documents(jsonl(tmp_path / "a.jsonl", [record]), **fields)


def test_a_missing_field_of_labels_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"data\.label_field='y' must be in each record: record 0 holds id, text, lab"):
        documents(jsonl(tmp_path / "a.jsonl", CLASSES), "classes", label_field="y")


def test_labels_are_not_looked_for_in_text(tmp_path):
    (tmp_path / "a.txt").write_text("words")
    with pytest.raises(ValueError, match="must hold records, and not text, for data.kind='chat'"):
        documents(tmp_path / "a.txt", "chat")


def test_a_label_that_the_train_split_lacks_is_named_with_its_document(tmp_path):
    names = [f"a.jsonl#{i}" for i in range(40)]
    splitter = corpus.Splitter([corpus.Document(name, "t") for name in names], 0.3)
    records = [{"text": "t", "label": "new" if splitter(name) == "valid" else "old"} for name in names]
    with pytest.raises(ValueError, match=r"document 'a.jsonl#\d+': label 'new' must occur in the train split: old"):
        prepared(jsonl(tmp_path / "a.jsonl", records), tmp_path / "data", kind="classes")
    assert not (tmp_path / "data").exists()


def test_a_pair_is_only_of_classes():
    with pytest.raises(ValueError, match="pair_field='b' must be '' with kind='tags'"):
        tokenized.Config(kind="tags", pair_field="b")


def test_the_fingerprint_covers_labels(tmp_path):
    prints = []
    for label in ("a", "b"):
        records = [{"text": str(i), "label": "ab"[i % 2] if i else label} for i in range(40)]
        prints.append(prepared(jsonl(tmp_path / "a.jsonl", records), tmp_path / label, kind="classes").fingerprint)
    assert prints[0] != prints[1] and all(len(one) == hashlib.sha256().digest_size * 2 for one in prints)


def test_columns_that_are_cut_short_are_refused(tmp_path):
    data = prepared(jsonl(tmp_path / "a.jsonl", CLASSES), tmp_path / "data", kind="classes")
    np.save(tmp_path / "data" / "train.labels.npy", data.splits["train"].columns["labels"][:-1])
    with pytest.raises(ValueError, match="train has .* labels and .* offsets"):
        tokenized.load(tmp_path / "data")


def test_pairs_that_an_earlier_version_wrote_without_parts_are_refused(tmp_path):
    records, fields = KINDS["pairs"]
    prepared(jsonl(tmp_path / "a.jsonl", records), tmp_path / "data", **fields)
    file = tmp_path / "data" / "meta.json"
    meta = json.loads(file.read_text())
    for split in meta["splits"].values():
        split["columns"].remove("parts")
    file.write_text(json.dumps(meta))
    with pytest.raises(ValueError, match="'parts', as an earlier version wrote them.*: delete it to tokenise again"):
        tokenized.load(tmp_path / "data")


def test_records_without_text_are_left_out_and_counted_once(tmp_path, caplog):
    path = jsonl(tmp_path / "a.jsonl", [CLASSES[0], CLASSES[0] | {"text": ""}, CLASSES[1]])
    with caplog.at_level("INFO", logger="arch"):
        found = [documents(path, "classes") for _ in range(2)]
    assert [d.text for d in found[0]] == [CLASSES[0]["text"], CLASSES[1]["text"]] and found[0] == found[1]
    assert caplog.messages == [f"{path}: 1 of 3 records hold no text and are left out"]


@pytest.mark.parametrize("kind", ["classes", "tags", "chat"])
def test_the_standard_library_has_documents_of_each_kind(kind):
    found = list(corpus.read(corpus.Config(max_bytes=100_000), kind))
    assert len(found) > 100 and len({name for name, *_ in found}) == len(found)
    assert found == list(corpus.read(corpus.Config(max_bytes=100_000), kind))
