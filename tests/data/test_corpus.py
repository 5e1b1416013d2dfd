"""Documents and their split."""

import pytest

from arch.data import corpus


def read(path="", **fields):
    return list(corpus.read(corpus.Config(path=str(path), **fields)))


def split(documents, valid_fraction):
    splitter = corpus.Splitter(documents, valid_fraction)
    return {name: [d for d in documents if splitter(d.name) == name] for name in ("train", "valid")}


def documents(count):
    return [corpus.Document(f"{i}.txt", f"text {i}") for i in range(count)]


def test_the_standard_library_has_megabytes_of_text_in_a_fixed_order():
    taken = read("", max_bytes=3_000_000)
    assert taken == read("")[: len(taken)]
    assert 2_700_000 < sum(len(text.encode()) for _, text in taken) <= 3_000_000
    assert {"functools.py", "test", "idlelib"} & {name.split("/")[0] for name, _ in read("")} == {"functools.py"}


def test_pieces_of_a_file_are_its_text(tmp_path):
    text = "añb\r\n" * 11
    (tmp_path / "a.txt").write_bytes(text.encode())
    pieces = read(tmp_path / "a.txt", piece_chars=7)
    assert "".join(text for _, text in sorted(pieces, key=lambda piece: int(piece.name.split("#")[1]))) == text


def test_a_file_longer_than_a_block_is_cut_by_its_characters(tmp_path):
    text = "añ道🙂" * 200_003  # 2 MB: characters lie across the ends of blocks
    (tmp_path / "a.txt").write_text(text, encoding="utf-8")
    pieces = read(tmp_path / "a.txt", piece_chars=99_991)
    assert {name: text for name, text in pieces} == {
        f"a.txt#{i}": text[i : i + 99_991] for i in range(0, len(text), 99_991)
    }


def test_the_first_wrong_byte_of_a_file_is_named(tmp_path):
    (tmp_path / "a.txt").write_bytes("añ".encode() * 11 + b"\xff" * 100)
    with pytest.raises(ValueError, match="byte 33 is not"):
        read(tmp_path / "a.txt", piece_chars=7)


def test_documents_are_read_one_by_one(tmp_path):
    for i in range(5):
        (tmp_path / f"{i}.txt").write_text(f"text {i}")
    stream = corpus.read(corpus.Config(path=str(tmp_path)))
    first = next(stream)
    for file in tmp_path.iterdir():
        file.write_text("written since")
    assert first.text != "written since" and {text for _, text in stream} == {"written since"}


def test_a_folder_is_read_deep_without_hidden_empty_and_unwanted_files(tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / ".git").mkdir()
    for name, text in {"a.txt": "a", "deep/b.txt": "b", "empty.txt": "", "c.bin": "c", ".git/d.txt": "d"}.items():
        (tmp_path / name).write_text(text)
    assert {name for name, _ in read(tmp_path, suffixes=(".txt",))} == {"a.txt", "deep/b.txt"}
    assert {name for name, _ in read(tmp_path)} == {"a.txt", "deep/b.txt", "c.bin"}


def test_splits_are_disjoint_and_complete():
    parts = split(documents(101), 0.2)
    assert sorted(parts["train"] + parts["valid"]) == sorted(documents(101))
    assert 10 < len(parts["valid"]) < 30


def test_a_document_keeps_its_split_when_others_come():
    few, many = split(documents(101), 0.2), split(documents(211), 0.2)
    assert set(few["valid"]) <= set(many["valid"]) and set(few["train"]) <= set(many["train"])


def test_two_documents_give_one_to_each_split():
    assert [len(part) for part in split(documents(2), 0.01).values()] == [1, 1]


def test_one_document_cannot_be_split():
    with pytest.raises(ValueError, match=r"data\.valid_fraction=0\.1 must leave .* 1 document"):
        split(documents(1), 0.1)


def test_a_missing_path_is_named():
    with pytest.raises(ValueError, match=r"data\.path='no/such' must be a text file or a folder"):
        read("no/such")


def test_an_empty_corpus_says_what_was_looked_for(tmp_path):
    (tmp_path / "a.txt").write_text("words")
    with pytest.raises(ValueError, match=r"found no document with suffixes=\('\.md',\)"):
        read(tmp_path, suffixes=(".md",))
    with pytest.raises(ValueError, match="found no document within max_bytes=4"):
        read(tmp_path, max_bytes=4)


def test_a_file_that_is_not_text_is_named(tmp_path):
    (tmp_path / "image.png").write_bytes(b"ok\xff")
    with pytest.raises(ValueError, match=r"image\.png' must be UTF-8 text: byte 2 is not"):
        read(tmp_path)
