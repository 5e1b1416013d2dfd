"""The runs of recall and induction are those of the paper, and their table says what was not run."""

import functools

import numpy as np
import pytest

from arch import config
from arch.train import sweep
from experiments import page, report
from experiments.recall_and_induction import claim
from experiments.recall_and_induction.config import MIXERS, TASKS, get_config

CONFIG = str(report.HERE / "recall_and_induction" / "config.py")
_, FOUND, PAPER = report.read(report.HERE / "recall_and_induction")
ROWS = FOUND["small"]["rows"]


@functools.cache
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


def test_naming_the_commonest_value_of_a_row_is_right_as_often_as_the_page_says():
    task = TASKS["recall"]
    rows, right = task.own_data().splits["valid"].tokens.reshape(-1, task.seq_len + 1), 0
    for row in rows:
        counts = np.bincount(row[1:-3:2], minlength=task.vocab_size)
        commonest = counts == counts.max()
        right += commonest[row[-1]] / commonest.sum()
    assert f"right in\n{right / len(rows):.1%}" in claim.CLAIM.setup


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
    lines = page.table(claim.table(ROWS[:1], PAPER)).splitlines()
    assert "| mamba2 | not run |  | not run |  |" in lines


def test_what_is_expected_is_judged_by_the_line_of_97_percent():
    found = [dict(task="recall", mixer=mixer, accuracy=0.98) for mixer in ("attention", "s4d", "mamba")]
    assert [each.holds for each in claim.expect(found, PAPER)] == [True, False, True]
    found = [row | dict(accuracy=0.96) for row in found]
    assert [each.holds for each in claim.expect(found, PAPER)] == [False, True, False]
