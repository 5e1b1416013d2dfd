"""The tasks that draw their rows: what the rows are, that they are drawn as the paper's, and what training reads."""

import functools

import numpy as np
import pytest

from arch.tasks import associative_recall, induction_head
from arch.train import experiment, setup

RECALL = associative_recall.Config(vocab_size=13, pairs=5)  # 5 keys, 1 to 5, and 6 values, 6 to 11
INDUCTION = induction_head.Config(vocab_size=9, length=7)
BOTH = pytest.mark.parametrize("task", [RECALL, INDUCTION], ids=["recall", "induction"])
COUNT = 20_000


@functools.cache
def rows(task):
    return task.draw(np.random.default_rng(0), COUNT)


def even(values, low, high):
    """Whether integers occur as evenly as chance has it: chi squared, 6 standard deviations off its mean at most."""
    counts = np.bincount(values - low, minlength=high - low)
    expected, freedom = len(values) / (high - low), high - low - 1
    return len(counts) == high - low and sum((counts - expected) ** 2) / expected < freedom + 6 * (2 * freedom) ** 0.5


def test_a_key_has_one_value_in_a_row_and_the_answer_is_that_of_the_key_asked_for():
    for row in rows(RECALL)[:500].tolist():
        *pairs, sign, asked, answer = row
        values = dict(zip(pairs[::2], pairs[1::2]))
        assert pairs[1::2] == [values[key] for key in pairs[::2]]
        assert sign == RECALL.vocab_size - 1 and values[asked] == answer


def test_keys_and_values_are_drawn_evenly_from_the_two_halves_of_the_letters():
    keys, values = rows(RECALL)[:, 0], rows(RECALL)[:, 1]
    assert even(keys, 1, 6) and even(values, 6, 12)
    assert even(keys * 6 + values - 6, 6, 36)  # together, too
    assert even(rows(RECALL)[:, 8], 1, 6) and even(rows(RECALL)[:, -1], 6, 12)


def test_each_key_that_a_row_has_is_asked_for_alike_however_often_it_is_there():
    keys, asked = rows(RECALL)[:, 0:10:2], rows(RECALL)[:, -2]
    twice = [(len(set(row)) == 2, row, ask) for row, ask in zip(keys.tolist(), asked.tolist())]
    of_two = [row.count(ask) for is_two, row, ask in twice if is_two]
    rarer = np.mean([count < 3 for count in of_two])  # of two keys in five places one is there more than twice
    assert len(of_two) > 500 and abs(rarer - 0.5) < 4 * (0.25 / len(of_two)) ** 0.5


def test_the_answer_is_what_stood_behind_the_sign_when_it_was_seen_before():
    for row in rows(INDUCTION)[:500].tolist():
        assert row.count(INDUCTION.vocab_size - 1) == 2 and row[-2] == INDUCTION.vocab_size - 1
        assert row[row.index(INDUCTION.vocab_size - 1) + 1] == row[-1]


def test_letters_are_even_and_the_sign_is_in_all_places_but_the_last_two():
    signs = rows(INDUCTION)[:, :-2] == INDUCTION.vocab_size - 1
    assert even(signs.argmax(axis=1), 0, 5) and even(rows(INDUCTION)[:, -1], 1, 8)
    assert even(rows(INDUCTION)[:, 6], 1, 8) and even(rows(INDUCTION)[:, 3][~signs[:, 3]], 1, 8)


def test_of_the_papers_sizes_are_the_defaults():
    assert associative_recall.Config().draw(np.random.default_rng(0), 3).shape == (3, 20 + 3)
    assert induction_head.Config().draw(np.random.default_rng(0), 3).shape == (3, 30 + 2)
    assert (associative_recall.Config().letters, induction_head.Config().letters) == (8, 18)


@BOTH
def test_rows_are_a_function_of_the_seed_and_of_the_split(task):
    task = task.replace(train_rows=11, valid_rows=11)
    one, same, other = task.own_data(), task.own_data(), task.replace(draw_seed=1).own_data()
    assert one.fingerprint == same.fingerprint != other.fingerprint
    assert not np.array_equal(one.splits["train"].tokens, other.splits["train"].tokens)
    assert not np.array_equal(one.splits["train"].tokens, one.splits["valid"].tokens)


@BOTH
def test_no_row_of_the_papers_sizes_is_there_twice(task):
    task = type(task)()
    data = task.own_data()
    held = np.concatenate([data.splits[name].tokens.reshape(-1, task.seq_len + 1) for name in ("train", "valid")])
    assert len(held) == 5500 == len(np.unique(held, axis=0))


@BOTH
@pytest.mark.parametrize("loss_of", ["answer", "row"])
def test_validation_asks_for_the_answer_alone_and_training_for_what_it_shall_learn(task, loss_of):
    task = task.replace(train_rows=7, valid_rows=3, loss_of=loss_of)
    data = task.own_data()
    samples = {split: task.samples(data, split, seq_len=task.seq_len) for split in data.splits}
    assert [samples[split].samples_per_epoch for split in ("train", "valid")] == [7, 3]
    last = [0.0] * (task.seq_len - 1) + [1.0]
    assert samples["valid"][2]["weights"].tolist() == last
    assert samples["train"][5]["weights"].tolist() == (last if loss_of == "answer" else [1.0] * task.seq_len)


@BOTH
def test_an_epoch_is_all_rows_in_an_order_of_its_own(task):
    task = task.replace(train_rows=7)
    samples = task.samples(task.own_data(), "train", seq_len=task.seq_len, seed=3)
    first, second = ([tuple(samples[i]["tokens"]) for i in epoch] for epoch in (range(7), range(7, 14)))
    assert sorted(first) == sorted(second) and first != second and len(set(first)) == 7
    row = samples[0]
    assert row["tokens"][1:].tolist() == row["targets"][:-1].tolist()
    assert row["positions"].tolist() == list(range(task.seq_len))


def test_symbols_are_written_by_their_names():
    symbols = RECALL.symbols()
    assert symbols.size == 13 and symbols.decode([0, 1, 11, 12]) == ". 0 10 =>"
    assert symbols.encode(". 0 10 =>") == symbols.prompt(". 0  10 =>") == [0, 1, 11, 12]
    with pytest.raises(ValueError, match="'11' must be one of the symbols"):
        symbols.encode("0 11")


def run(task, **changes):
    layers = dict(pattern=(dict(sublayers=(dict(name="mlp", hidden_dim=3),)),))
    model = dict(name="decoder", vocab_size=task.vocab_size, embed_dim=2, layers=layers)
    fields = dict(model=model, task=task, total_steps=1, batch_size=8, seq_len=task.seq_len)
    return experiment.from_dict(fields | changes)


@BOTH
def test_a_run_reads_nothing_but_the_tasks_own_rows(task, tmp_path):
    ready = setup.prepare(run(task), tmp_path)
    assert ready.dataset("train")[0]["tokens"].shape == (8, task.seq_len)
    assert ready.token_bytes is None and not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    "changes, message",
    [
        (dict(seq_len=13), "seq_len=13 must be 12, the length of the rows of task 'associative_recall'"),
        (dict(data=dict(path="x")), "data.path: '' -> 'x': it must be left out with task.name='associative_recall'"),
    ],
)
def test_what_does_not_go_with_the_rows_is_refused(changes, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        setup.prepare(run(RECALL, **changes), tmp_path)


def test_a_vocabulary_that_is_too_small_is_refused(tmp_path):
    cfg = run(RECALL)
    with pytest.raises(ValueError, match="model.vocab_size=12 must be at least 13"):
        setup.prepare(cfg.replace(model=cfg.model.replace(vocab_size=12)), tmp_path)
