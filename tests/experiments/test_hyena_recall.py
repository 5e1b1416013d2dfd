"""The runs of recall at length are those of the paper, and each expectation of them can fail."""

import functools

import numpy as np
import pytest

from arch import config
from arch.train import sweep
from experiments import page, report
from experiments.hyena_recall import claim
from experiments.hyena_recall.config import MIXERS, SIZES, get_config, task

CONFIG = str(report.HERE / "hyena_recall" / "config.py")
PAPER = report.read(report.HERE / "hyena_recall")[2]


@functools.cache
def configs(size):
    given = f"{CONFIG}:{size}"
    return sweep.configs(given, {}, sweep.read(given))


def test_of_the_paper_are_symbols_widths_epochs_and_rates():
    found = configs("paper")
    assert len(found) == len(MIXERS)
    for cfg in found:
        assert (cfg.task.vocab_size, cfg.task.train_rows, cfg.task.loss_of) == (30, 4000, "row")
        assert (cfg.seq_len, cfg.total_epochs, cfg.batch_size) == (30_002, 400, 32)
        assert (cfg.model.embed_dim, len(cfg.model.layers.blocks), cfg.model.dropout) == (64, 2, 0.1)
        assert (cfg.optimizer.learning_rate, cfg.optimizer.weight_decay) == (5e-4, 0.1)
    hyena = found[0].model.layers.pattern[0].sublayers[0]
    assert (hyena.order, hyena.filter_dim, 1 + 2 * hyena.bands, hyena.conv_width) == (2, 64, 5, 3)
    assert (hyena.frequency, hyena.max_length) == (10.0, 30_002)


def test_each_mixer_runs_at_each_length():
    found = {(str(cfg.seq_len - 2), cfg.model.layers.pattern) for cfg in configs("small")}
    assert {length for length, _ in found} == {*SIZES["small"]["lengths"]}
    assert len(found) == len(SIZES["small"]["lengths"]) * len(MIXERS)


@pytest.mark.parametrize("arg, message", [
    ("mixer=gss", "option mixer='gss' must be one of hyena"), ("length=129", "option length='129' must be one of 128"),
    ("paper,length=128", "option length='128' must be one of 30000"),
])  # fmt: skip
def test_an_option_that_there_is_not_is_refused(arg, message):
    with pytest.raises(config.ConfigError, match=message):
        get_config(arg)


def found(**accuracies):
    """Rows of mixers, an accuracy a length."""
    lengths = tuple(map(int, SIZES["small"]["lengths"]))
    return [
        dict(mixer=mixer, length=length, accuracy=accuracy, by_step={})
        for mixer, pair in accuracies.items()
        for length, accuracy in zip(lengths, pair)
    ]


def holds(rows):
    return [each.holds for each in claim.expect(rows, PAPER)]


def test_what_is_expected_is_the_order_of_the_paper():
    rows = found(hyena=(1.0, 1.0), attention=(0.9, 0.5), rwkv4=(0.4, 0.2), s4d=(0.1, 0.1))
    assert holds(rows) == [True] * 6
    alike = found(**dict.fromkeys(("hyena", "attention", "rwkv4", "s4d"), (0.9, 0.9)))
    assert holds(alike) == [False] * 6
    assert holds(found(hyena=(1.0, 0.96), attention=(1.0, 0.9), rwkv4=(1.0, 1.0), s4d=(1.0, 0.1))) == [
        *(False, True, False, False, True, True)
    ]


def test_what_has_not_run_is_not_judged_and_is_so_called_in_the_table():
    rows = found(hyena=(1.0, 1.0), attention=(0.9, 0.5), rwkv4=(0.4, 0.2))
    assert holds(rows) == [True] * 5
    assert "| s4d | not run | not run |  |  |  |" in page.table(claim.table(rows, PAPER))


def test_naming_the_commonest_value_of_a_row_is_right_as_often_as_the_page_says():
    for length in SIZES["small"]["lengths"]:
        rows = task(length)
        drawn, right = rows.draw(np.random.default_rng((rows.draw_seed, 1)), rows.valid_rows), 0
        for row in drawn:
            counts = np.bincount(row[1:-3:2], minlength=rows.vocab_size)
            commonest = counts == counts.max()
            right += commonest[row[-1]] / commonest.sum()
        assert f"{100 * right / len(drawn):.1f} %" in claim.CLAIM.remarks["small"]


def test_the_table_has_the_papers_mixers_beside_ours():
    text = page.table(claim.table(found(hyena=(1.0, 0.5), mamba=(0.2, 0.1)), PAPER))
    first, second = SIZES["small"]["lengths"]
    head = f"| mixer | {first}, ours | {second}, ours | 30000, paper | 64000, paper | 131000, paper |"
    assert text.splitlines()[0] == head
    assert "| hyena | **100.0%** | 50.0% | **100.0%** | **100.0%** | **97.2%** |" in text
    assert "| gss |  |  | 5.3% | 2.1% | 0.1% |" in text and "| mamba | 20.0% | 10.0% |  |  |  |" in text
