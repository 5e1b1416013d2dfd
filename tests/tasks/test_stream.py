"""What a task makes of a mixture is one stream: on 1, 2, 4 and 8 shards, and resumed on another number of them."""

import numpy as np
import pytest

from arch.data import dataset, tokenized
from tests.train import tiny_tasks

TASKS = {kind: tiny_tasks.config("text", kind).task for kind in tiny_tasks.RUNS}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Two sources with weights, packed."""
    folder = tmp_path_factory.mktemp("text")
    for name, words in (("a", "one two three "), ("b", "fünf sechs sieben ")):
        lines = (f"{words * (i % 5 + 1)}{i}\n" for i in range(151))
        (folder / f"{name}.txt").write_text("".join(lines), encoding="utf-8")
    sources = ((str(folder / "a.txt"), 3), (str(folder / "b.txt"), 1))
    parts = tuple(tokenized.Part(path=path, weight=weight, piece_chars=97) for path, weight in sources)
    words = tokenized.tokenizers.Config(specials=tiny_tasks.SPECIALS)
    return tokenized.prepare(tokenized.Config(mixture=parts, valid_fraction=0.2, tokenizer=words), folder / "data")


def made(data, task, shards, split="train"):
    samples = task.samples(data, split, seq_len=29, seed=5)
    return [dataset.make(samples, batch_size=8, shard_index=i, shard_count=shards) for i in range(shards)]


def joined(rows):
    return {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}


def equal(left, right):
    pairs = zip(left, right, strict=True)
    return all(a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a) for a, b in pairs)


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
@pytest.mark.parametrize("split", ["train", "valid"])
@pytest.mark.parametrize("shards", [2, 4, 8])
def test_shards_side_by_side_are_the_one_stream(data, task, shards, split):
    whole, parts = made(data, task, 1, split)[0], made(data, task, shards, split)
    steps = range(0, len(whole), len(whole) // 7) if split == "train" else range(len(whole))
    assert equal([joined([part[step] for part in parts]) for step in steps], [whole[step] for step in steps])


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_a_run_resumed_on_other_shards_goes_on_in_the_one_stream(data, task):
    read = []
    for shards, start, end in ((8, 0, 7), (2, 7, 15)):
        parts = [dataset.batches(part, start_step=start) for part in made(data, task, shards)]
        read += [joined([next(part) for part in parts]) for _ in range(start, end)]
        for part in parts:
            part.close()
    assert equal(read, [made(data, task, 1)[0][step] for step in range(15)])


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_each_epoch_hides_other_tokens_but_validation_the_same_whatever_the_seed(data, task):
    train, valid = (task.samples(data, split, seq_len=29, seed=5) for split in ("train", "valid"))
    again = task.samples(data, "valid", seq_len=29, seed=6)
    assert equal([valid[i] for i in range(9)], [again[i] for i in range(9)])
    assert not equal([train[i] for i in range(9)], [train[i + train.samples_per_epoch] for i in range(9)])


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_a_sample_of_each_task_tells_its_source_and_documents(data, task):
    told = task.samples(data, "train", seq_len=29).origin(7)
    assert told.keys() == {"source", "documents"} and told["documents"]


def test_the_rows_behind_a_validation_split_have_no_weight(data):
    for task in TASKS.values():
        whole = dataset.make(task.samples(data, "valid", seq_len=29), batch_size=53)
        last = whole[len(whole) - 1]
        assert last["ids"].min() == -1, "the split fills its last batch: change its size"
        assert not any(last[name][last["ids"] < 0].any() for name in last if name != "ids")
        assert last["weights"][last["ids"] >= 0].any()
