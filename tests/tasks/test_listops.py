"""ListOps' rows: expressions as the benchmark's code draws them, with their values."""

import functools
import statistics

import numpy as np
import pytest

from arch.data import dataset
from arch.tasks import listops
from arch.train import experiment, setup

TASK = listops.Config(max_depth=4, max_args=5, min_length=5, max_length=43, train_rows=211, valid_rows=53)
FREE = listops.Config(max_depth=3, max_args=5, min_length=0, max_length=999)
NAMES = np.array(listops.SYMBOLS)


@functools.cache
def drawn():
    return TASK.drawn()


@functools.cache
def free():
    """(words, value) of expressions of any length."""
    rows, values = FREE.draw(np.random.default_rng(0), 4001)
    return [(NAMES[row].tolist(), value) for row, value in zip(rows, values)]


def even(counts):
    """Whether counts are as even as chance has it: chi squared, 6 standard deviations off its mean at most."""
    expected, freedom = sum(counts) / len(counts), len(counts) - 1
    return sum((count - expected) ** 2 for count in counts) / expected < freedom + 6 * (2 * freedom) ** 0.5


def evaluate(words):
    """(value, depth) of an expression whose words are taken from the front."""
    first = words.pop(0)
    if first.isdigit():
        return int(first), 1
    arguments, depths = [], []
    while words[0] != "]":
        value, depth = evaluate(words)
        arguments.append(value)
        depths.append(depth)
    words.pop(0)
    assert 2 <= len(arguments) <= 5
    functions = {"[MIN": min, "[MAX": max, "[MED": statistics.median, "[SM": lambda values: sum(values) % 10}
    return int(functions[first](arguments)), 1 + max(depths)


@pytest.mark.parametrize("split", ["train", "valid"])
def test_the_class_of_a_row_is_the_value_of_its_expression(split):
    for row, value in zip(*drawn()[split]):
        start, *words = NAMES[row].tolist()
        found, depth = evaluate(words)
        assert (start, found, words) == ("[CLS]", value, []) and depth <= 4 and 5 < len(row) - 1 < 43


def test_rows_are_all_different_and_as_many_as_asked_for():
    train, valid = (drawn()[split][0] for split in ("train", "valid"))
    assert (len(train), len(valid)) == (211, 53) and len({row.tobytes() for row in train + valid}) == 264


def test_a_node_is_an_operator_in_a_quarter_and_a_digit_at_the_greatest_depth():
    roots = [words[1] for words, _ in free()]
    assert len(roots) == 4001 and abs(np.mean([not word.isdigit() for word in roots]) - 0.25) < 6 * 0.43 / 4001**0.5
    assert max(evaluate(words[1:])[1] for words, _ in free()) == 3


def test_operators_digits_and_numbers_of_arguments_are_even():
    words = [word for words, _ in free() for word in words[1:]]
    assert even([words.count(name) for name in ("[MIN", "[MAX", "[MED", "[SM")])
    assert even([words.count(str(digit)) for digit in range(10)])
    flat = [len(words) - 3 for words, _ in free() if sum(word == "]" for word in words) == 1 and len(words) > 2]
    chances = [0.75**count for count in range(2, 6)]  # of arguments that are all digits
    assert even([flat.count(count) / chance for count, chance in zip(range(2, 6), chances)])


def test_the_benchmarks_lengths_and_its_commonest_values_are_the_defaults():
    task = listops.Config(train_rows=1, valid_rows=1)
    rows, values = task.draw(np.random.default_rng(1), 3000)
    assert task.seq_len == 2000 and all(500 < len(row) - 1 < 2000 for row in rows) and len(rows) > 100
    share = np.bincount(values, minlength=10) / len(values)
    assert {*np.argsort(share)[-2:]} == {0, 9}  # of the least and the greatest


def test_rows_are_a_function_of_the_seed():
    one, same, other = TASK.own_data(), TASK.own_data(), TASK.replace(draw_seed=1).own_data()
    assert one.fingerprint == same.fingerprint != other.fingerprint


def test_more_rows_than_there_are_expressions_are_refused():
    few = listops.Config(max_depth=2, max_args=2, min_length=0, max_length=3)
    with pytest.raises(ValueError, match="must allow train_rows .* 32768 draws gave no more than 10"):
        few.own_data()


def run(**changes):
    pool = changes.pop("pool", "mean")
    layers = dict(pattern=(dict(sublayers=(dict(name="mlp", hidden_dim=3),)),))
    head = dict(name="row_classification", num_labels=10, hidden_dim=3, pool=pool)
    model = dict(name="encoder", vocab_size=16, embed_dim=2, layers=layers, head=head)
    fields = dict(model=model, task=TASK.replace(train_rows=11, valid_rows=5), seq_len=43, batch_size=8, total_steps=1)
    return experiment.from_dict(fields | changes)


def test_a_run_reads_padded_rows_with_their_class_at_the_start(tmp_path):
    ready = setup.prepare(run(), tmp_path)
    batch = dataset.without_ids(ready.dataset("train")[0])
    shapes = {name: (array.shape[1:], str(array.dtype)) for name, array in batch.items()}
    assert shapes == ready.cfg.task.fields(43) and not (tmp_path / "data").exists()
    rows, classes = ready.cfg.task.drawn()["valid"]
    for i, row in enumerate(rows):
        sample = ready.cfg.task.samples(ready.data, "valid", seq_len=43)[i]
        assert sample["tokens"][sample["valid"]].tolist() == row.tolist()
        assert sample["weights"].tolist() == [1.0] + [0.0] * 42 and sample["targets"][0] == classes[i]


@pytest.mark.parametrize("changes, message", [
    (dict(seq_len=44), "seq_len=44 must be 43, the length of the rows of task 'listops'"),
    (dict(pool="first"), "model.layers must hold attention of causal=False with task.name='listops'"),
    (dict(data=dict(path="x")), "data.path: '' -> 'x': it must be left out with task.name='listops'"),
])  # fmt: skip
def test_what_does_not_go_with_the_rows_is_refused(changes, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        setup.prepare(run(**changes), tmp_path)
