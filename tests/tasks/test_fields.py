"""What a task says of its batches, before there are any, is true of them."""

import pytest

from arch.data import dataset, tokenized
from arch.tasks import associative_recall
from arch.train import experiment
from tests.train import tiny, tiny_labelled, tiny_tasks


def held(cfg, data):
    """(shape of a row, dtype) of each field of a batch."""
    samples = cfg.task.samples(data, "train", seq_len=cfg.seq_len)
    batch = dataset.without_ids(dataset.make(samples, batch_size=3)[0])
    return {name: (array.shape[1:], str(array.dtype)) for name, array in batch.items()}


@pytest.mark.parametrize("kind", tiny_tasks.RUNS)
def test_of_text(kind, text, tmp_path):
    cfg = tiny_tasks.config(text, kind)
    assert held(cfg, tokenized.prepare(cfg.data, tmp_path / "data")) == cfg.task.fields(cfg.seq_len)


def test_of_the_next_token(text, tmp_path):
    cfg = tiny.config(text)
    assert held(cfg, tokenized.prepare(cfg.data, tmp_path / "data")) == cfg.task.fields(cfg.seq_len)


@pytest.mark.parametrize("task", tiny_labelled.RUNS)
def test_of_labelled_records(task, tmp_path):
    values, path = tiny_labelled.fields(task), tiny_labelled.write(tmp_path / "records.jsonl", task)
    cfg = experiment.from_dict(values | {"data": values["data"] | {"path": str(path)}})
    assert held(cfg, tokenized.prepare(cfg.data, tmp_path / "data")) == cfg.task.fields(cfg.seq_len)


def test_of_drawn_rows():
    task = associative_recall.Config(train_rows=5, valid_rows=3)
    cfg = experiment.from_dict(tiny.fields() | {"data": {}, "seq_len": task.seq_len})
    assert held(cfg.replace(task=task), task.own_data()) == task.fields(task.seq_len)
