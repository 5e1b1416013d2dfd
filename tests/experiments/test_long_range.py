"""The runs of Long Range Arena are those of its released configs, and are judged by what its table has."""

import functools

import pytest

from arch import config
from arch.train import sweep
from experiments import report
from experiments.long_range import claim
from experiments.long_range.config import KINDS, MIXERS, SIZES, get_config

CONFIG = str(report.HERE / "long_range" / "config.py")


@functools.cache
def configs(size):
    given = f"{CONFIG}:{size}"
    return sweep.configs(given, {}, sweep.read(given))


def test_of_the_paper_are_sizes_steps_and_rates():
    found = configs("paper")
    assert len(found) == len(MIXERS) == 9
    for cfg in found:
        (block,) = cfg.model.layers.pattern
        assert (len(cfg.model.layers.blocks), cfg.model.embed_dim, block.sublayers[1].hidden_dim) == (4, 512, 1024)
        assert (cfg.seq_len, cfg.total_steps, cfg.batch_size, cfg.task.train_rows) == (2000, 5000, 32, 96_000)
        rate = cfg.optimizer.schedule(cfg.total_steps)
        rates = [float(rate(step)) for step in (500, 1000, 4000)]
        assert rates == pytest.approx([7.906e-4, 1.581e-3, 7.906e-4], rel=1e-3)


def mixer(cfg):
    """The name of the mixer of a run."""
    return type(cfg.model.layers.pattern[0].sublayers[0]).__module__.rsplit(".", 1)[-1]


def test_the_mean_of_a_row_is_read_in_pathfinder_and_of_what_looks_back_alone():
    for cfg in (*configs("small"), *configs("paper")):
        mean = cfg.task.label == "pathfinder" or mixer(cfg) in ("mamba2", "s4d")
        assert cfg.model.head.pool == ("mean" if mean else "first")


def test_the_small_size_has_the_same_mixers_on_each_task_and_performer_of_two_features_on_listops():
    for task, names in SIZES["small"]["mixers"].items():
        assert names[:4] == KINDS and names[4:] == (("performer_2",) if task == "listops" else ())
    assert len(configs("small")) == 13


@pytest.mark.parametrize("arg, message", [
    ("size=huge", "option size='huge' must be one of small, paper"),
    ("paper,task=mail", "option task='mail' must be one of listops"),
    ("mixer=mambo", "option mixer='mambo' must be one of transformer, local"),
])  # fmt: skip
def test_an_option_that_there_is_not_is_refused(arg, message):
    with pytest.raises(config.ConfigError, match=message):
        get_config(arg)


def row(task, mixer, accuracy):
    return dict(task=task, mixer=mixer, accuracy=accuracy, commonest=0.5, loss=1.0, by_step={})


def test_what_is_expected_is_judged_beyond_two_points():
    rows = [row("listops", name, value) for name, value in zip((*KINDS, "performer_2"), (0.36, 0.18, 0.25, 0.39, 0.24))]
    assert [each.holds for each in claim.expect(rows, ())] == [True, True, False, True]
    rows += [row(task, name, 0.53) for task in ("mail", "pathfinder") for name in KINDS]
    assert [each.holds for each in claim.expect(rows, ())][4:] == [True, False, True, False]


def test_the_table_has_the_papers_numbers_beside_ours():
    rows = [row("listops", "local", 0.2), row("mail", "local", 0.75)]
    first, second = claim.table(rows, report.read(report.HERE / "long_range")[2])
    assert first == {"mixer": "commonest class", "listops, ours": "50.0%", "mail, ours": "50.0%"}
    assert second == {"mixer": "local", "listops, ours": "20.0%", "listops, paper": "15.82%", "mail, ours": "75.0%"}
