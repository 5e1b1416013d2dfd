"""Documents and their split."""

import pytest

from arch.data import corpus


def documents(count):
    return [corpus.Document(f"{i}.txt", f"text {i}") for i in range(count)]


def test_the_standard_library_has_megabytes_of_text_in_a_fixed_order():
    taken = corpus.read("", max_bytes=3_000_000)
    assert taken == corpus.read("")[: len(taken)]
    assert 2_700_000 < sum(len(text.encode()) for _, text in taken) <= 3_000_000
    assert {"functools.py", "test", "idlelib"} & {name.split("/")[0] for name, _ in corpus.read("")} == {"functools.py"}


def test_pieces_of_a_file_are_its_text(tmp_path):
    text = "añb\r\n" * 11
    (tmp_path / "a.txt").write_bytes(text.encode())
    pieces = corpus.read(str(tmp_path / "a.txt"), piece_chars=7)
    assert "".join(text for _, text in sorted(pieces, key=lambda piece: int(piece.name.split("#")[1]))) == text


def test_a_folder_is_read_deep_without_hidden_empty_and_unwanted_files(tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / ".git").mkdir()
    for name, text in {"a.txt": "a", "deep/b.txt": "b", "empty.txt": "", "c.bin": "c", ".git/d.txt": "d"}.items():
        (tmp_path / name).write_text(text)
    assert {name for name, _ in corpus.read(str(tmp_path), suffixes=(".txt",))} == {"a.txt", "deep/b.txt"}
    assert {name for name, _ in corpus.read(str(tmp_path))} == {"a.txt", "deep/b.txt", "c.bin"}


def test_splits_are_disjoint_and_complete():
    parts = corpus.split(documents(101), 0.2)
    assert sorted(parts["train"] + parts["valid"]) == sorted(documents(101))
    assert 10 < len(parts["valid"]) < 30


def test_a_document_keeps_its_split_when_others_come():
    few, many = corpus.split(documents(101), 0.2), corpus.split(documents(211), 0.2)
    assert set(few["valid"]) <= set(many["valid"]) and set(few["train"]) <= set(many["train"])


def test_two_documents_give_one_to_each_split():
    assert [len(part) for part in corpus.split(documents(2), 0.01).values()] == [1, 1]


def test_one_document_cannot_be_split():
    with pytest.raises(ValueError, match=r"data\.valid_fraction=0\.1 must leave .* 1 document"):
        corpus.split(documents(1), 0.1)


def test_a_missing_path_is_named():
    with pytest.raises(ValueError, match=r"data\.path='no/such' must be a text file or a folder"):
        corpus.read("no/such")


def test_an_empty_corpus_says_what_was_looked_for(tmp_path):
    (tmp_path / "a.txt").write_text("words")
    with pytest.raises(ValueError, match=r"found no document with suffixes=\('\.md',\)"):
        corpus.read(str(tmp_path), suffixes=(".md",))
    with pytest.raises(ValueError, match="found no document within max_bytes=4"):
        corpus.read(str(tmp_path), max_bytes=4)


def test_a_file_that_is_not_text_is_named(tmp_path):
    (tmp_path / "image.png").write_bytes(b"ok\xff")
    with pytest.raises(ValueError, match=r"image\.png' must be UTF-8 text: byte 2 is not"):
        corpus.read(str(tmp_path))
