"""The benchmark of attention against the length: what it computes from times, and what it measured, as kept."""

import json
from pathlib import Path

import pytest

from benchmarks import attention_scaling, measure, turns

KEPT = json.loads((measure.RESULTS / "attention_scaling-cpu.json").read_text())
PARTS = {command.split()[-1]: entry for command, entry in KEPT.items()}


def rows(cost, power):
    return [{"length": length, "least_ms": cost * length**power} for length in (1024, 2048, 4096)]


def test_the_exponent_is_that_of_the_power():
    assert turns.exponent(rows(3.0, 1.5), "least_ms") == 1.5


def test_the_crossover_is_where_the_powers_meet():
    assert attention_scaling.meeting(rows(3000.0, 1), rows(1.0, 2)) == 3000


def test_a_pattern_that_is_ahead_at_all_lengths_has_no_crossover():
    assert attention_scaling.meeting(rows(1.0, 1), rows(1.0, 2)) == 0


def test_a_pattern_that_is_behind_at_the_greatest_length_is_refused():
    with pytest.raises(ValueError, match="at length=4096 the pattern must take less time than all pairs"):
        attention_scaling.meeting(rows(1e9, 1), rows(1.0, 2))


def test_what_is_kept_are_parts_of_the_benchmark():
    assert set(PARTS) == set(attention_scaling.PARTS)


@pytest.mark.parametrize("form", attention_scaling.PATTERNS)
def test_time_and_temporaries_of_a_pattern_grow_with_the_length_and_not_with_its_square(form):
    assert PARTS[form]["rows"][-1]["length"] == 1 << attention_scaling.LENGTHS[form]
    assert PARTS[form]["exponents"]["temporaries"] <= 1.1
    assert PARTS[form]["exponents"]["time"] <= 1.1


def test_the_dense_path_is_at_least_four_fifths_as_fast_as_torch():
    assert PARTS["16k"]["rows"]["dense"]["speed_over_torch"] >= 0.8


def test_a_pattern_takes_less_than_its_share_of_the_dense_time_over_0_6():
    for form in attention_scaling.PATTERNS:
        assert PARTS["16k"]["rows"][form]["time_over_density_of_dense"] <= 1 / 0.6


def test_the_page_on_kernels_says_what_was_measured():
    rows = PARTS["16k"]["rows"]
    share = lambda form: f"{100 * rows[form]['least_ms'] / rows['dense']['least_ms']:.1f} %"
    density = {f"{100 * rows[form]['density']:.1f} %" for form in ("longformer", "bigbird")}
    text = " ".join(Path("docs/kernels.md").read_text().split())
    assert len(density) == 1
    assert f"attention over all pairs has {rows['dense']['speed_over_torch']:.2f} of the speed of torch's" in text
    powers = [power for form in attention_scaling.PATTERNS for power in PARTS[form]["exponents"].values()]
    assert "with powers of at most 1.03 of the length" in text and 1.02 < max(powers) <= 1.03
    assert "less time than all pairs at every length from 1k on" in text
    assert not any(length for ahead in attention_scaling.crossover().values() for length in ahead.values())
    assert f"Longformer's blocks take {share('longformer')} and BigBird's {share('bigbird')}, at {density.pop()} of" in text
    speeds = [PARTS["4k"]["rows"][form]["speed_over_transformers"] for form in attention_scaling.PATTERNS]
    assert min(speeds) >= 3
    assert "they are {:.1f} and {:.1f} times as fast as transformers' Longformer and BigBird".format(*speeds) in text
