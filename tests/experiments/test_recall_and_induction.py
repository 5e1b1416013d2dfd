"""The README of the experiment says what its results say, and its sweep is of runs that can be made and that learn."""

import json

import numpy as np
import pytest

from arch import config
from arch.train import modes, results, sweep
from arch.train.startup import Startup
from experiments.recall_and_induction import collect
from experiments.recall_and_induction.config import MIXERS, TASKS, get_config

CONFIG = str(collect.HERE / "config.py")
ROWS = json.loads(collect.RESULTS.read_text())["rows"]
PAPER = json.loads(collect.PAPER.read_text())["rows"]


def configs(arg):
    return sweep.configs(f"{CONFIG}:{arg}", {}, sweep.read(CONFIG))


@pytest.mark.parametrize("size", ["small", "paper"])
def test_every_point_is_a_run_of_its_mixer_on_rows_of_its_task(size):
    found = configs(size)
    assert len(found) == len(MIXERS) * len(TASKS)
    for cfg in found:
        cfg.task.must_suit(cfg.model, seq_len=cfg.seq_len)
    assert len({(cfg.model.layers.pattern, cfg.task) for cfg in found}) == len(found)


def test_of_the_paper_are_tasks_widths_epochs_and_rates():
    recall, *_, induction = configs("paper")
    assert (recall.task.vocab_size, 2 * recall.task.pairs, recall.total_epochs) == (10, 20, 200)
    assert (induction.task.vocab_size, induction.task.length, induction.total_epochs) == (20, 30, 400)
    for cfg in (recall, induction):
        assert (cfg.task.train_rows, cfg.task.valid_rows, cfg.task.loss_of) == (5000, 500, "row")
        assert (cfg.model.embed_dim, len(cfg.model.layers.blocks), cfg.batch_size) == (32, 2, 32)
        assert (cfg.optimizer.learning_rate, cfg.optimizer.weight_decay, cfg.model.dropout) == (5e-4, 0.1, 0.1)


def test_naming_the_commonest_value_of_a_row_is_right_as_often_as_the_readme_says():
    task = TASKS["recall"]
    rows, right = task.own_data().splits["valid"].tokens.reshape(-1, task.seq_len + 1), 0
    for row in rows:
        counts = np.bincount(row[1:-3:2], minlength=task.vocab_size)
        commonest = counts == counts.max()
        right += commonest[row[-1]] / commonest.sum()
    assert f"right in {right / len(rows):.1%}" in collect.README.read_text()


@pytest.mark.parametrize("option", ["size=huge", "mixer=mambo", "task=recal"])
def test_an_unknown_option_is_refused(option):
    with pytest.raises(config.ConfigError, match=f"{option.split('=')[0]}=.* must be one of"):
        get_config(option)


def test_the_results_are_of_points_of_the_sweep_in_their_order_and_of_all_of_recall():
    points = [point.overrides["arg"] for point in sweep.read(CONFIG)]
    found = [f"mixer={row['mixer']},task={row['task']}" for row in ROWS]
    assert found == [point for point in points if point in found]
    assert {row["mixer"] for row in ROWS if row["task"] == "recall"} == MIXERS.keys()


def test_the_table_says_what_was_not_run():
    (line,) = [line for line in collect.table(ROWS[:1], PAPER).splitlines() if "mamba2" in line]
    assert line == "| mamba2 | not run |  | not run |  |"


def test_the_readme_holds_the_table_of_the_results():
    text = collect.README.read_text()
    assert collect.tabulated(text, collect.table(ROWS, PAPER)) == text


def test_a_readme_of_other_results_is_told_apart():
    other = [ROWS[0] | {"accuracy": ROWS[0]["accuracy"] / 2}, *ROWS[1:]]
    assert collect.table(other, PAPER) not in collect.README.read_text()


def test_a_tiny_run_is_trained_for_a_few_steps_and_collected(tmp_path):
    (point, *_), (cfg, *_) = sweep.read(CONFIG), configs("small")
    tiny = cfg.task.replace(pairs=2, train_rows=16, valid_rows=5)
    model = cfg.model.replace(position=cfg.model.position.replace(length=6))
    cfg = cfg.replace(task=tiny, model=model, seq_len=6, batch_size=8, total_steps=3)
    cfg = cfg.replace(eval_every_percent=0.0, eval_every_steps=2)
    modes.train(cfg, str(tmp_path / point.folder), {}, Startup())
    result = results.Result(0, point.folder, dict(point.overrides), config.to_dict(cfg), "finished", seconds=1.6)
    results.write(tmp_path, result)
    (row,) = collect.collect(tmp_path)["rows"]
    assert (row["mixer"], row["task"], row["steps"], row["seconds"]) == ("attention", "recall", 3, 2)
    assert list(row["by_step"]) == [2, 3] and row["accuracy"] in (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
