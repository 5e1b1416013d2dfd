"""Lengths in any unit become steps; two units for one length are refused, and both are named."""

import re

import pytest

from arch.config import ConfigError
from arch.train import duration
from arch.train import optimizer as optimizers
from tests.train import tiny

SAMPLES = 50
"""Rows of an epoch; a batch of the tiny run has 8 rows of 29 tokens."""


def resolved(**lengths):
    return tiny.config("text", **{"optimizer.warmup_steps": 0} | lengths).resolve(lambda: SAMPLES)


TOTALS = {
    "steps": (7, 7),
    "tokens": (3 * 8 * 29, 3),
    "examples": (24, 3),
    "epochs": (2.0, 13),  # 100 rows
}


@pytest.mark.parametrize("unit", TOTALS)
def test_a_run_s_length_in_any_unit_becomes_steps(unit):
    value, steps = TOTALS[unit]
    cfg = resolved(**{"total_steps": 0, f"total_{unit}": value})
    assert cfg.total_steps == steps
    assert (cfg.total_tokens, cfg.total_examples, cfg.total_epochs) == (0, 0, 0.0)


@pytest.mark.parametrize(("tokens", "steps"), [(1, 1), (8 * 29, 1), (8 * 29 + 1, 2)])
def test_steps_are_rounded_up(tokens, steps):
    assert resolved(total_steps=0, total_tokens=tokens).total_steps == steps


INTERVALS = {"steps": (3, 3), "tokens": (2 * 8 * 29, 2), "examples": (9, 2), "epochs": (0.5, 4), "percent": (30, 3)}


@pytest.mark.parametrize("name", ["log_every", "eval_every", "checkpoint_every", "optimizer.warmup"])
@pytest.mark.parametrize("unit", INTERVALS)
def test_an_interval_in_any_unit_becomes_steps(name, unit):
    value, steps = INTERVALS[unit]
    cfg = resolved(**{"total_steps": 10, f"{name}_steps": 0, f"{name}_{unit}": value})
    holder = cfg.optimizer if name.startswith("optimizer") else cfg
    assert duration.in_steps(holder, name.removeprefix("optimizer.")) == steps


def test_percents_are_of_the_whole_run_in_whatever_unit():
    assert resolved(total_steps=0, total_epochs=8.0, eval_every_steps=0, eval_every_percent=10).eval_every_steps == 5


def test_lengths_that_are_not_set_have_their_defaults():
    cfg = resolved(log_every_steps=0, eval_every_steps=0, checkpoint_every_steps=0)
    assert (cfg.log_every_steps, cfg.eval_every_steps, cfg.checkpoint_every_steps) == (10, 0, 0)
    assert duration.in_steps(cfg.optimizer, "warmup") == 0


OVERFLOWING = [("epochs", 1e308, "at most"), ("tokens", 10**400, "an integer of")]


@pytest.mark.parametrize(("unit", "value", "rule"), OVERFLOWING)
def test_a_length_that_could_overflow_is_refused(unit, value, rule):
    with pytest.raises(ValueError, match=re.escape(f"total_{unit}={value} must be {rule}")):
        resolved(**{"total_steps": 0, f"total_{unit}": value})


def test_epochs_are_not_asked_for_in_vain():
    tiny.config("text").resolve(lambda: pytest.fail("an epoch was counted"))


@pytest.mark.parametrize("name", ["total", "log_every", "eval_every", "checkpoint_every"])
def test_two_units_for_one_length_are_refused(name):
    with pytest.raises(ConfigError, match=f"{name}_steps=3 and {name}_tokens=5: only one may be set"):
        resolved(**{f"{name}_steps": 3, f"{name}_tokens": 5})


def test_two_units_for_the_warm_up_are_refused():
    with pytest.raises(ConfigError, match="optimizer: warmup_steps=3 and warmup_percent=5.0: only one may be set"):
        resolved(**{"optimizer.warmup_steps": 3, "optimizer.warmup_percent": 5})


def test_a_run_without_length_is_refused():
    with pytest.raises(ConfigError, match="total_steps=0 must be at least 1, or one of total_tokens"):
        resolved(total_steps=0)


def test_a_schedule_of_a_warm_up_that_is_not_in_steps_is_refused():
    with pytest.raises(ValueError, match="warmup_tokens=5 must be resolved to steps first"):
        optimizers.Config(warmup_tokens=5).schedule(10)
