"""The tasks that draw their rows: what the rows are, that they are drawn as the paper's, and what training reads."""

import functools

import numpy as np
import pytest

from arch.tasks import associative_recall, induction_head, multi_query_recall, selective_copying
from arch.train import experiment, setup

RECALL = associative_recall.Config(vocab_size=13, pairs=5)  # 5 keys, 1 to 5, and 6 values, 6 to 11
INDUCTION = induction_head.Config(vocab_size=9, length=7)
COPYING = selective_copying.Config(vocab_size=7, length=11, letters_copied=3)  # letters 1 to 5
QUERIES = multi_query_recall.Config(vocab_size=13, length=14, pairs=3)  # keys 1 to 5, values 6 to 11, 4 spots
BOTH = pytest.mark.parametrize("task", [RECALL, INDUCTION], ids=["recall", "induction"])
ALL = pytest.mark.parametrize("task", [RECALL, INDUCTION, COPYING, QUERIES], ids=lambda task: task.label)
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


def test_copied_letters_are_those_before_the_sign_in_order():
    before, sign, behind = rows(COPYING)[:, :11], rows(COPYING)[:, 11], rows(COPYING)[:, 12:]
    assert before[before > 0].reshape(-1, 3).tolist() == behind.tolist() and set(sign) == {6}
    assert even(behind[:, 1], 1, 6) and even(5 * behind[:, 0] + behind[:, 2] - 6, 0, 25)


def test_all_sets_of_places_of_copied_letters_are_alike():
    sets = [sum(1 << place for place in row.nonzero()[0]) for row in rows(COPYING)[:, :11]]
    of, counts = np.unique(sets, return_counts=True)
    expected = COUNT / 165  # 11 over 3
    assert len(of) == 165 and sum((counts - expected) ** 2) / expected < 164 + 6 * (2 * 164) ** 0.5


def test_each_key_is_asked_for_once_and_its_value_follows():
    for row in rows(QUERIES)[:500].tolist():
        keys, values, behind = row[:6:2], row[1:6:2], row[6:]
        assert len(set(keys)) == len(set(values)) == 3 and max(keys) <= 5 < min(values)
        asked = [(key, value) for key, value in zip(behind[::2], behind[1::2]) if key]
        assert sorted(asked) == sorted(zip(keys, values)) and behind.count(0) == 2


def test_keys_and_values_of_queries_are_even_and_questions_come_soon_by_the_power_law():
    keys, values = rows(QUERIES)[:, 0], rows(QUERIES)[:, 3]
    assert even(keys, 1, 6) and even(values, 6, 12)
    spot = np.argmax(rows(QUERIES)[:, 6::2] == keys[:, None], axis=1)  # of the first key: drawn first
    chances = np.arange(1, 5) ** (0.01 - 1.0)
    expected = COUNT * chances / chances.sum()
    assert sum((np.bincount(spot) - expected) ** 2 / expected) < 3 + 6 * 6**0.5


@pytest.mark.parametrize("task, answers", [(COPYING, 3), (QUERIES, 3), (RECALL, 1)], ids=lambda value: str(value)[:9])
def test_as_many_symbols_as_there_are_answers_are_asked_for(task, answers):
    data = task.replace(valid_rows=5).own_data().splits["valid"]
    asked = data.columns["weights"].reshape(5, -1)
    assert set(asked.sum(axis=1)) == {answers}
    tokens = data.tokens.reshape(5, -1)
    if task is COPYING:
        assert np.all(asked[:, 12:] == 1)
    if task is QUERIES:
        assert np.all((tokens[asked == 1] > 5) & (tokens[:, :-1][asked[:, 1:] == 1] <= 5))


@pytest.mark.parametrize("make, message", [
    (lambda: COPYING.replace(letters_copied=12), "letters_copied=12 must be at most length=11"),
    (lambda: QUERIES.replace(length=15), "length=15 must be even, and at least 4 pairs=12"),
    (lambda: QUERIES.replace(length=24, pairs=6), "pairs=6 must be at most the number of keys, 5"),
])  # fmt: skip
def test_rows_that_cannot_be_drawn_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@ALL
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


@ALL
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


@ALL
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
