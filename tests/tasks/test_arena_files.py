"""Rows from files in the forms in which those of Long Range Arena are handed out."""

import numpy as np
import pytest
from PIL import Image

from arch.tasks import arena_files, listops
from arch.train import experiment, setup

LINES = "( ( ( [MAX 3 ) ( ( ( [MIN 7 ) 2 ) ] ) ) ] )\t3\n", "( ( ( ( [SM 9 ) 8 ) 5 ) ] )\t2\n"
NAMES = np.array(listops.SYMBOLS)


def write_listops(root):
    """Both files."""
    for name, lines in (("train", LINES), ("test", LINES[1:])):
        (root / f"basic_{name}.tsv").write_bytes("".join(("Source\tTarget\n", *lines)).replace("\n", "\r\n").encode())


def write_text(root):
    """A review of each opinion and split."""
    for split in ("train", "test"):
        for name in ("neg", "pos"):
            (root / split / name).mkdir(parents=True)
            (root / split / name / "0_1.txt").write_bytes(f"{name} {split} \N{EN DASH}".encode())


def write_image(root):
    """A batch of two records a file."""
    for number, name in enumerate([*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]):
        pixels = np.zeros((2, 3, 1024), np.uint8)
        pixels[:, number % 3] = 200
        records = np.concatenate([np.array([[number], [9]], np.uint8), pixels.reshape(2, -1)], axis=1)
        (root / f"{name}.bin").write_bytes(records.tobytes())


def write_pathfinder(root):
    """Twenty images, number i with the grey i, the last one empty."""
    (root / "metadata").mkdir()
    for folder in range(2):
        (root / "imgs" / str(folder)).mkdir(parents=True)
        lines = []
        for i in range(10):
            file = root / "imgs" / str(folder) / f"sample_{i}.png"
            Image.fromarray(np.full((6, 6), 10 * folder + i, np.uint8)).save(file)
            lines.append(f"imgs/{folder} sample_{i}.png {i} {i % 2} 1.0 14 4 2 0.5 1 1\n")
        (root / "metadata" / f"{folder}.npy").write_text("".join(lines))
    file.write_bytes(b"")


WRITERS = {"listops": write_listops, "text": write_text, "image": write_image, "pathfinder": write_pathfinder}


def rows(root, name, length=99):
    WRITERS[name](root)
    return arena_files.Config(path=str(root), rows=name, length=length).drawn()


def test_expressions_lose_the_brackets_that_are_no_operators(tmp_path):
    found = rows(tmp_path, "listops")
    words = [" ".join(NAMES[row]) for row in found["train"][0]]
    assert words == ["[CLS] [MAX 3 [MIN 7 2 ] ]", "[CLS] [SM 9 8 5 ]"] and found["train"][1] == [3, 2]
    assert found["valid"][1] == [2]


def test_reviews_are_bytes_behind_the_start_up_to_the_length(tmp_path):
    found = rows(tmp_path, "text", length=12)
    texts = [bytes((row[1:] - 1).tolist()) for row in found["valid"][0]]
    assert texts == ["neg test \N{EN DASH}".encode()[:11], "pos test \N{EN DASH}".encode()[:11]]
    assert found["valid"][1] == found["train"][1] == [0, 1] and len(found["train"][0][0]) == 12


def test_images_are_their_pixels_in_grey(tmp_path):
    found = rows(tmp_path, "image", length=1024)
    assert found["train"][1] == [0, 9, 1, 9, 2, 9, 3, 9, 4, 9] and found["valid"][1] == [5, 9]
    assert [set(row.tolist()) for row in found["train"][0][:6:2]] == [{60}, {117}, {23}]


def test_pathfinders_images_are_split_by_chance_and_empty_files_left_out(tmp_path):
    found = rows(tmp_path, "pathfinder", length=36)
    greys = {split: [row[0] for row in images] for split, (images, _) in found.items()}
    assert (len(greys["train"]), len(greys["valid"])) == (15, 2) and not {*greys["train"]} & {*greys["valid"]}
    assert all(kind == grey % 2 for split in greys for grey, kind in zip(greys[split], found[split][1]))
    assert {*greys["train"], *greys["valid"]} < {*range(19)} and greys["train"] != sorted(greys["train"])


@pytest.mark.parametrize("name", WRITERS)
def test_a_run_reads_them(name, tmp_path):
    (tmp_path / "files").mkdir()
    WRITERS[name](tmp_path / "files")
    length = {"image": 1024, "pathfinder": 36}.get(name, 41)
    task = arena_files.Config(path=str(tmp_path / "files"), rows=name, length=length)
    layers = dict(pattern=(dict(sublayers=(dict(name="mlp", hidden_dim=3),)),))
    head = dict(name="row_classification", num_labels=len(task.classes), hidden_dim=3, pool="mean")
    model = dict(name="encoder", vocab_size=len(task.symbols), embed_dim=2, layers=layers, head=head)
    cfg = experiment.from_dict(dict(model=model, task=task, seq_len=length, batch_size=8, total_steps=1))
    ready = setup.prepare(cfg, tmp_path / "run")
    assert ready.dataset("train")[0]["tokens"].shape == (8, length)


@pytest.mark.parametrize("name, file, raw, message", [
    ("listops", "basic_test.tsv", b"Source,Target\n", "basic_test.tsv' must begin with a line of Source and Target"),
    ("listops", "basic_train.tsv", b"Source\tTarget\n[MAX 1 ]\t1\n[AVG 1 ]\t1\n", "line 3 must be an expression"),
    ("listops", "basic_train.tsv", b"Source\tTarget\n[MAX 1 ]\t10\n", "line 2 must be an expression"),
    ("image", "data_batch_3.bin", b"\0" * 3072, "data_batch_3.bin' must hold classes from 0 to 9, with 3072 bytes"),
    ("pathfinder", "imgs/0/sample_0.png", b"\0", "sample_0.png' must be an image"),
])  # fmt: skip
def test_a_damaged_file_is_named(name, file, raw, message, tmp_path):
    WRITERS[name](tmp_path)
    (tmp_path / file).write_bytes(raw)
    with pytest.raises(ValueError, match=message):
        arena_files.Config(path=str(tmp_path), rows=name, length=36).drawn()


@pytest.mark.parametrize("name, message", [
    ("listops", "must hold the file basic_train.tsv"), ("text", "must be a folder of text: it has none to train"),
    ("image", "must hold the file data_batch_1.bin"), ("pathfinder", "must be a folder of pathfinder: it has none to"),
])  # fmt: skip
def test_a_folder_without_the_files_is_refused(name, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        arena_files.Config(path=str(tmp_path), rows=name, length=36).drawn()
