"""Pairs of texts from files in the form in which those of Long Range Arena are handed out, and runs on them."""

import json

import numpy as np
import pytest

from arch.tasks import retrieval
from arch.train import command_line, experiment, modes
from arch.train.startup import Startup
from experiments import report

LINES = (
    '1.0\tP00-1\tW05-2\tA "parser" of\ttrees \N{EN DASH} and words\n',
    "0.0\tP00-3\tW05-4\tSpeech\tA grammar\n",
    "1\tP00-5\tW05-6\tTags\tTagging\n",
)
CONFIG = str(report.HERE / "long_range" / "config.py")


@pytest.fixture
def folder(tmp_path):
    """With both files."""
    files = tmp_path / "tsv_data"
    files.mkdir()
    for name, lines in (("train", LINES), ("test", LINES[1:])):
        (files / f"new_aan_pairs.{name}.tsv").write_text("".join(lines), newline="")
    return files


def task(folder, length=11):
    return retrieval.Config(path=str(folder), length=length)


def read(row):
    """The bytes of a text."""
    assert row[0] == 0
    return bytes((row[1:] - 1).tolist())


def test_a_line_is_two_texts_as_bytes_and_whether_they_are_linked(folder):
    texts, classes = task(folder).drawn()["train"]
    whole = [b'A "parser" of', "trees \N{EN DASH} and words".encode(), b"Speech", b"A grammar", b"Tags", b"Tagging"]
    assert list(map(read, texts)) == [text[:10] for text in whole]
    assert classes == [1, 1, 0, 0, 1, 1] and task(folder).drawn()["valid"][1] == [0, 0, 1, 1]


def test_a_row_has_a_text_in_either_half_and_one_label(folder):
    found = task(folder)
    row = found.samples(found.own_data(), "valid", seq_len=found.seq_len)[0]
    first, second = np.split(row["tokens"], 2)
    assert read(first[:7]) == b"Speech" and read(second[:10]) == b"A grammar"
    assert row["valid"].tolist() == [True] * 7 + [False] * 4 + [True] * 10 + [False]
    assert row["positions"].tolist() == [*range(11)] * 2
    assert row["weights"].tolist() == [1.0] + [0.0] * 21 and row["targets"][0] == 0
    assert {name: (array.shape, str(array.dtype)) for name, array in row.items()} == found.fields(found.seq_len)


@pytest.mark.parametrize("line, message", [
    (b"1.0\ta\tb\tone text\n", "line 2 must be label, id1, id2, text1, text2, tabs between, and has 4 fields"),
    (b"1.0\ta\tb\tx\ty\tz\n", "and has 6 fields"),
    (b"2.0\ta\tb\tx\ty\n", "line 2: its label must be 0.0 or 1.0, and not '2.0'"),
    (b"label\tid1\tid2\ttext1\ttext2\n", "its label must be 0.0 or 1.0, and not 'label'"),
    (b"1.0\ta\tb\t\ty\n", "line 2: its text1 must not be empty"),
    (b"1.0\ta\tb\tx\t\n", "line 2: its text2 must not be empty"),
])  # fmt: skip
def test_a_damaged_line_is_named_with_its_field(line, message, folder):
    (folder / "new_aan_pairs.train.tsv").write_bytes(LINES[1].encode() + line)
    with pytest.raises(ValueError, match=f"new_aan_pairs.train.tsv': .*{message}"):
        task(folder).drawn()


def test_an_empty_file_and_a_folder_without_files_are_refused(folder, tmp_path):
    (folder / "new_aan_pairs.test.tsv").write_bytes(b"")
    with pytest.raises(ValueError, match="new_aan_pairs.test.tsv' must hold pairs of texts: it is empty"):
        task(folder).drawn()
    with pytest.raises(ValueError, match=r"task.path=.* must hold the file new_aan_pairs.train.tsv"):
        task(tmp_path).drawn()


def experiment_of(arg):
    """The run of experiments/long_range that an argument names."""
    return experiment.from_dict(command_line.namespace(CONFIG)["get_config"](arg))


@pytest.mark.parametrize("size, length", [("small", 256), ("paper", 4000)])
@pytest.mark.parametrize("mixer", ["transformer", "bigbird", "s4d"])
def test_the_experiment_has_a_run_on_them(size, length, mixer):
    cfg = experiment_of(f"{size},mixer={mixer},task=retrieval")
    cfg.task.must_suit(cfg.model, seq_len=cfg.seq_len)
    assert (cfg.task.length, cfg.seq_len) == (length, 2 * length)
    assert cfg.model.head.pool == ("mean" if mixer == "s4d" else "first")


def test_of_the_paper_are_its_sizes_and_rates():
    cfg = experiment_of("paper,task=retrieval")
    (block,) = cfg.model.layers.pattern
    heads = block.sublayers[0].num_heads
    assert (cfg.model.embed_dim, heads, block.sublayers[1].hidden_dim, len(cfg.model.layers.blocks)) == (128, 4, 512, 4)
    rate = cfg.optimizer.schedule(cfg.total_steps)
    assert [float(rate(step)) for step in (4000, 8000)] == pytest.approx([2.795e-4, 5.59e-4], rel=1e-3)


def test_an_encoder_or_a_head_of_rows_is_refused(folder):
    cfg = experiment_of("task=mail")
    with pytest.raises(ValueError, match="model.name='encoder' must be 'dual_encoder' with task.name='retrieval'"):
        task(folder).must_suit(cfg.model, seq_len=22)


@pytest.mark.slow
@pytest.mark.parametrize("mixer", ["transformer", "mamba2"])
def test_a_run_learns_the_pairs_of_its_files(mixer, folder, tmp_path):
    cfg = experiment_of(f"mixer={mixer},task=retrieval")
    own = task(folder, length=16)
    cfg = cfg.replace(task=own, seq_len=own.seq_len, batch_size=8, total_steps=30)
    modes.train(cfg, str(tmp_path / "run"), {}, Startup())
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    of = lambda name: [line[name] for line in lines if name in line]
    assert of("train/loss")[-1] < 0.1 < of("train/loss")[0] and of("eval/valid/accuracy")[-1] == 1.0
